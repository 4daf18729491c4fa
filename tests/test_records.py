"""The committed tables: each of the default settings, for its seeds, with its provenance."""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from balancing.experiments import EXPERIMENTS

RESULTS = Path(__file__).parent.parent / "book" / "results"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_record(name: str) -> None:
    experiment = EXPERIMENTS[name]
    configs = experiment.configs(20)
    assert len(configs) == (10 if name == "practice.tuning" else 20)
    seeds = [config.seed for config in configs]
    table = pd.read_csv(RESULTS / f"{name}.csv")
    assert table["seed"].unique().tolist() == seeds
    per_seed = table.groupby("seed").size()
    if name != "saul2023.figure2":  # a network that is balanced exactly has no more rows
        assert per_seed.nunique() == 1
    provenance = json.loads((RESULTS / f"{name}.json").read_text())
    assert provenance["experiment"] == name
    assert provenance["command"].startswith("balancing reproduce ")
    settings = json.loads(json.dumps(asdict(experiment.config)))
    settings.pop("seed")
    assert provenance["config"] == settings | {"seeds": seeds}
