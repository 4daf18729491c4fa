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

import pandas as pd
import torch

from balancing.experiments._settings import bar, check_counts, check_seed, chosen
from balancing.fixes import balance
from balancing.graph import trace
from balancing.networks import mlp

__all__ = ["Figure2Config", "figure2"]

_FIRST = 10  # updates that bring the most


@dataclass(frozen=True)
class Figure2Config:
    """Settings of Figure 2; the defaults are the full-size experiment.

    Attributes:
        networks: widths of each network (stated).
        panels: pairs (p, q) (chosen).
        updates: number of multiplicative updates (chosen).
        record_every: updates between recorded rows after the first ten, all of which are recorded.
        seed: seeds the initialization of each network (chosen).
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
    record_every: int = 5
    seed: int = 0

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
        check_counts(self, "updates", "record_every")
        check_seed(self)


def figure2(config: Figure2Config | None = None, *, progress: bool | None = None) -> pd.DataFrame:
    """Figure 2: the norm over its initial value, after each update of Algorithm 1.

    A network has the same weights in all panels. Their common scale does not matter: it enters
    neither the ratio nor the updates.

    Args:
        config: settings.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        One row an update that is recorded, from 0 to the last (none after a network is balanced
        exactly). Columns:
        ``network``, its widths, for example ``"200-2500-1250-10"``; ``p``, ``q``; ``seed``;
        ``update``; ``ratio``, the norm over its initial value; ``max_imbalance``, the largest
        relative imbalance of a hidden unit.

    Raises:
        ValueError: a width, p or q is not what :func:`balancing.mlp` and
            :func:`balancing.balance` take.
    """
    config = chosen(config, Figure2Config)
    tables = []
    for widths in bar(config.networks, "figure 2", progress):
        generator = torch.Generator().manual_seed(config.seed)
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
            update = table["update"]
            is_recorded = (update <= _FIRST) | (update % config.record_every == 0)
            is_recorded.iloc[-1] = True
            table = table[is_recorded]
            name = "-".join(map(str, widths))
            tables.append(table.assign(network=name, p=p, q=q, seed=config.seed))
    columns = ["network", "p", "q", "seed", "update", "ratio", "max_imbalance"]
    return pd.concat(tables, ignore_index=True)[columns]
