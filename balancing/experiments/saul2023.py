"""Saul (2023): how fast the multiplicative updates lower the norm of random networks (Figure 2).

Stated: the widths of the three networks, zero biases, Gaussian weights with variances inversely
proportional to fan-in, and what is plotted: the norm over its initial value against the number of
updates, for several p and q. Chosen here, because the paper's are not known to us: which p and q,
the number of updates, the seeds.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch

from balancing.experiments._settings import bar, check_counts
from balancing.fixes import balance
from balancing.graph import trace
from balancing.networks import mlp

__all__ = ["Figure2Config", "figure2"]


@dataclass(frozen=True)
class Figure2Config:
    """Settings of Figure 2; the defaults are the full-size experiment.

    Attributes:
        networks: widths of each network (stated).
        panels: pairs (p, q) (chosen).
        updates: number of multiplicative updates (chosen).
        seeds: number of initializations of each network, seeded by 0, 1, ... (chosen).
    """

    networks: tuple[tuple[int, ...], ...] = (
        (200, 2500, 1250, 10),
        (200, 2000, 1000, 500, 250, 10),
        (200, 1000, 750, 750, 500, 500, 250, 10),
    )
    panels: tuple[tuple[float, float], ...] = (
        (1, 1),
        (2, 2),
        (1, 2),
        (2, 1),
        (1, 4),
        (4, 1),
        (2, 4),
        (4, 2),
    )
    updates: int = 100
    seeds: int = 3

    def __post_init__(self) -> None:
        """Reject settings that cannot be run, naming the setting."""
        if not self.networks or not all(isinstance(w, tuple) and len(w) > 2 for w in self.networks):
            raise ValueError(
                "networks must be tuples of at least three widths: inputs, hidden layers and "
                f"outputs; got {self.networks}"
            )
        if not self.panels or not all(
            isinstance(pair, tuple) and len(pair) == 2 for pair in self.panels
        ):
            raise ValueError(f"panels must be pairs (p, q), got {self.panels}")
        check_counts(self, "updates", "seeds")


def figure2(config: Figure2Config | None = None, *, progress: bool | None = None) -> pd.DataFrame:
    """Figure 2: the norm over its initial value, after each update of Algorithm 1.

    A network has the same weights in all panels. Their common scale does not matter: it enters
    neither the ratio nor the updates.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        One row an update, from 0 (fewer where a network is balanced exactly). Columns:
        ``network``, its widths, for example ``"200-2500-1250-10"``; ``p``, ``q``; ``seed``;
        ``update``; ``ratio``, the norm over its initial value; ``max_imbalance``, the largest
        relative imbalance of a hidden unit.

    Raises:
        ValueError: a width, p or q is not what :func:`balancing.mlp` and
            :func:`balancing.balance` take.
    """
    config = config or Figure2Config()
    tables = []
    settings = list(product(config.networks, range(config.seeds)))
    for widths, seed in bar(settings, "figure 2", progress):
        generator = torch.Generator().manual_seed(seed)
        graph = trace(mlp(widths, bias=True, dtype=torch.float64, generator=generator))
        for p, q in config.panels:
            rows: list[tuple[int, float, float]] = []
            with warnings.catch_warnings():  # it is stopped on purpose
                warnings.filterwarnings("ignore", message=r"balance\(\) stopped")
                balance(
                    graph,
                    p,
                    q,
                    method="multiplicative",
                    tol=sys.float_info.min,
                    max_iter=config.updates,
                    callback=lambda *row, rows=rows: rows.append(row),
                )
            table = pd.DataFrame(rows, columns=["update", "ratio", "max_imbalance"])
            table["ratio"] /= table["ratio"].iloc[0]
            name = "-".join(map(str, widths))
            tables.append(table.assign(network=name, p=p, q=q, seed=seed))
    columns = ["network", "p", "q", "seed", "update", "ratio", "max_imbalance"]
    return pd.concat(tables, ignore_index=True)[columns]
