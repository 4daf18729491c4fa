"""The benchmark of more machines: what is not measured, but computed."""

from __future__ import annotations

import pandas as pd
import pytest

from balancing.experiments.sweeps import Task
from benchmarks.scaling import RunConfig, summary, timed_run


def test_efficiency_is_of_the_median_sweep_of_one_worker() -> None:
    sweeps = {(1, 0): 10.0, (1, 1): 12.0, (1, 2): 50.0, (2, 0): 8.0, (2, 1): 7.0, (2, 2): 6.0}
    rows = [
        {
            "workers": workers,
            "repeat": repeat,
            "seed": seed,
            "run_seconds": 1.0 + seed,
            "sweep_seconds": seconds,
            "start_seconds": 3.0,
        }
        for (workers, repeat), seconds in sweeps.items()
        for seed in range(4)
    ]
    table = summary(pd.DataFrame(rows))
    assert list(table.index) == [1, 2]
    assert list(table["sweep_seconds"]) == [12, 7]
    assert list(table["efficiency"]) == pytest.approx([1, 12 / (2 * 7)])
    assert list(table["run_seconds"]) == [10, 10]
    assert list(table["longest"]) == [4, 4]


def test_a_run_is_timed_and_can_be_found_by_a_worker() -> None:
    config = RunConfig(updates=1, seed=7)
    [[seed, seconds]] = timed_run(config).to_numpy()
    assert seed == 7
    assert seconds > 0
    assert Task(timed_run, config).name == "benchmarks.scaling:timed_run"
