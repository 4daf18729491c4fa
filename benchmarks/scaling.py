"""More machines: a sweep on a Dask cluster of 1 and 2 workers, and the fix on sharded weights.

The sweep is one experiment over seeds; every run is timed in its worker, every sweep as a whole,
and so is the start of the cluster. Sweeps of 1 and 2 workers alternate. The shards are those of
networks of growing width, in two processes that talk through gloo: what is counted there are
messages and bytes, which no load of the machine can change.

Run: python -m benchmarks.scaling [--quick]
It records book/results/benchmark.scaling.csv and benchmark.sharding.csv (--quick: a small version,
in _build) and prints summaries. Needs Dask: pip install 'balancing[cluster]'.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from balancing import balance, mlp
from balancing.cli import RESULTS
from balancing.experiments import saul2023, sweep
from balancing.experiments._record import record

NAMES = "benchmark.scaling", "benchmark.sharding"
PROCESSES = 2


@dataclass(frozen=True)
class Config:
    """Settings.

    Attributes:
        workers: sizes of the cluster.
        repeats: sweeps with each size.
        runs: of the experiment in a sweep, seeded by 0, 1, ...
        updates: of Algorithm 1 in each run, on the smallest network of Saul's Figure 2.
        widths: of the sharded networks, which have four hidden layers of that width.
    """

    workers: tuple[int, ...] = (1, 2)
    repeats: int = 3
    runs: int = 20
    updates: int = 50
    widths: tuple[int, ...] = (128, 256, 512, 1024, 2048)


QUICK = Config(repeats=1, runs=4, updates=2, widths=(16, 32))


@dataclass(frozen=True)
class RunConfig:
    """One run of the sweep."""

    updates: int
    seed: int = 0


def timed_run(config: RunConfig) -> pd.DataFrame:
    """Figure 2 of Saul 2023 on its smallest network; columns ``seed`` and ``run_seconds``."""
    start = time.perf_counter()
    networks = saul2023.Figure2Config().networks[:1]
    setting = saul2023.Figure2Config(
        networks=networks, panels=((2, 2), (1, 2)), updates=config.updates, seed=config.seed
    )
    saul2023.figure2(setting, progress=False)
    seconds = time.perf_counter() - start
    return pd.DataFrame({"seed": [config.seed], "run_seconds": [seconds]})


def scaling(config: Config) -> pd.DataFrame:
    """One row for each run: how long it took, the sweep that it was part of, and the cluster."""
    configs = [RunConfig(config.updates, seed) for seed in range(config.runs)]
    tables = []
    for repeat, workers in itertools.product(range(config.repeats), config.workers):
        tables.append(_timed_sweep(workers, configs).assign(workers=workers, repeat=repeat))
    columns = ["workers", "repeat", "seed", "run_seconds", "sweep_seconds", "start_seconds"]
    return pd.concat(tables, ignore_index=True)[columns]


def _timed_sweep(workers: int, configs: list[RunConfig]) -> pd.DataFrame:
    from distributed import Client, LocalCluster

    start = time.perf_counter()
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(workers)
        # the first run of a worker imports torch and the library; that is part of the start
        warm = replace(configs[0], updates=1)
        with client.get_executor(pure=False) as executor:
            sweep(timed_run, [replace(warm, seed=i) for i in range(2 * workers)], executor)
            middle = time.perf_counter()
            table = sweep(timed_run, configs, executor, progress=False)
            end = time.perf_counter()
    return table.assign(sweep_seconds=end - middle, start_seconds=middle - start)


def sharding(config: Config) -> pd.DataFrame:
    """One row for each network: its size, and what travels to balance it."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_balance_shards, (config, folder), nprocs=PROCESSES)
        return pd.read_csv(f"{folder}/table.csv")


def _balance_shards(rank: int, config: Config, folder: str) -> None:
    """What each process does: balance networks whose rows are split, and note the traffic."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(minutes=5),
    )
    mesh = init_device_mesh("cpu", (PROCESSES,))
    rows = []
    for width in config.widths:
        model = mlp([width] * 6, generator=torch.Generator().manual_seed(0))
        for layer in model[::2]:
            weight = distribute_tensor(layer.weight.detach(), mesh, [Shard(0)])
            layer.weight = nn.Parameter(weight)
        found = balance(model)
        with warnings.catch_warnings():  # they are stopped on purpose
            warnings.filterwarnings("ignore", message=r"balance\(\) stopped")
            two, three = (
                balance(model, method="multiplicative", tol=1e-15, max_iter=n) for n in (2, 3)
            )
        weights = [layer.weight for layer in model[::2]]
        rows.append(
            {
                "width": width,
                "units": 4 * width,
                "weights": sum(weight.numel() for weight in weights),
                "weight_bytes": sum(weight.numel() * weight.element_size() for weight in weights),
                "bytes_per_iteration": three.traffic - two.traffic,
                "messages_per_iteration": three.messages - two.messages,
                "iterations": found.iterations,
                "passes": found.passes,
                "traffic": found.traffic,
                "messages": found.messages,
            }
        )
    if rank == 0:
        pd.DataFrame(rows).to_csv(f"{folder}/table.csv", index=False)
    dist.destroy_process_group()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Medians over the repeats for each number of workers, and the efficiency."""
    sweeps = table.groupby(["workers", "repeat"], as_index=False).agg(
        sweep_seconds=("sweep_seconds", "first"),
        start_seconds=("start_seconds", "first"),
        run_seconds=("run_seconds", "sum"),
        longest=("run_seconds", "max"),
    )
    medians = sweeps.groupby("workers").median().drop(columns="repeat")
    one = medians["sweep_seconds"].iloc[0] * medians.index[0]
    return medians.assign(efficiency=one / (medians["sweep_seconds"] * medians.index))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small version, in _build")
    quick = parser.parse_args().quick
    config, folder = (QUICK, Path("_build")) if quick else (Config(), RESULTS)
    folder.mkdir(exist_ok=True)
    program = ("python", "-m", "benchmarks.scaling")
    for name, table in zip(NAMES, (scaling(config), sharding(config)), strict=True):
        record(folder, name, table, config, program=program)
        print(f"{os.path.join(folder, name)}.csv")
        print(summary(table) if name == NAMES[0] else table.to_string(index=False))


if __name__ == "__main__":
    # other processes cannot find functions of __main__
    from benchmarks.scaling import main as importable_main

    importable_main()
