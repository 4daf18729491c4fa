"""The papers' experiments: a frozen config goes in, a pandas DataFrame comes out.

One module a paper; each experiment is a function named after the figure or theorem that it
reproduces. :mod:`practice` holds what is ours alone. A config has one seed; :func:`sweep` runs
many. :data:`EXPERIMENTS` lists them under the names that ``balancing reproduce`` takes. A config of
another experiment is a TypeError, a setting that cannot be run a ValueError that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from balancing.experiments import du2018, pairing, practice, saul2023
from balancing.experiments.sweeps import sweep

__all__ = ["EXPERIMENTS", "Experiment", "du2018", "pairing", "practice", "saul2023", "sweep"]


@dataclass(frozen=True)
class Experiment:
    """A named experiment at its full size.

    Attributes:
        run: maps a config to a table; takes ``progress`` as a keyword.
        config: the default settings, a frozen dataclass with a ``seed``.
        first_seed: of the record; seeds are counted up from here.
        most_seeds: as many as the record needs, however many are asked for; None for no limit.
    """

    run: Callable[..., pd.DataFrame]
    config: Any
    first_seed: int = 0
    most_seeds: int | None = None

    def configs(self, seeds: int, config: Any = None) -> list[Any]:
        """One config a seed, equal but for it; None means the default settings."""
        count = seeds if self.most_seeds is None else min(seeds, self.most_seeds)
        config = self.config if config is None else config
        return [replace(config, seed=self.first_seed + number) for number in range(count)]


EXPERIMENTS = {
    "du2018.figure2": Experiment(du2018.figure2, du2018.Figure2Config()),
    "du2018.drift": Experiment(du2018.drift, du2018.DriftConfig()),
    "du2018.figure1": Experiment(du2018.figure1, du2018.Figure1Config()),
    "du2018.theorem31": Experiment(du2018.theorem31, du2018.Theorem31Config()),
    "du2018.theorem32": Experiment(du2018.theorem32, du2018.Theorem32Config()),
    "du2018.optimizers": Experiment(du2018.optimizers, du2018.OptimizersConfig()),
    "saul2023.figure2": Experiment(saul2023.figure2, saul2023.Figure2Config()),
    "saul2023.pairing": Experiment(pairing.pairing, pairing.PairingConfig()),
    "practice.quantization": Experiment(practice.quantization, practice.QuantizationConfig()),
    "practice.pruning": Experiment(practice.pruning, practice.PruningConfig()),
    # its seeds are none of those of the training that it is for
    "practice.tuning": Experiment(practice.tuning, practice.TuningConfig(), 1000, most_seeds=10),
    "practice.training": Experiment(practice.training, practice.TrainingConfig()),
}
