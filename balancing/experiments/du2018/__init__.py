"""Du, Hu and Lee (2018): the experiments of the paper, and those that its theorems call for.

Section 4, gradient descent on a ReLU network: :func:`figure2`, :func:`drift`. Section 3, matrix
factorization: :func:`figure1`, :func:`theorem31`, :func:`theorem32`. From flow to descent, an
experiment of ours: :func:`optimizers`. Each config says which settings are stated by the paper,
which are recalled, and which are chosen here.
"""

from balancing.experiments.du2018.optimizers import OptimizersConfig, optimizers
from balancing.experiments.du2018.section3 import (
    Figure1Config,
    Theorem31Config,
    Theorem32Config,
    figure1,
    low_rank,
    practical_schedule,
    printed_schedule,
    rank_one,
    theorem31,
    theorem32,
)
from balancing.experiments.du2018.section4 import (
    DriftConfig,
    Figure2Config,
    FullBatchDescent,
    data,
    drift,
    figure2,
    network,
    run,
)

__all__ = [
    "DriftConfig",
    "Figure1Config",
    "Figure2Config",
    "FullBatchDescent",
    "OptimizersConfig",
    "Theorem31Config",
    "Theorem32Config",
    "data",
    "drift",
    "figure1",
    "figure2",
    "low_rank",
    "network",
    "optimizers",
    "practical_schedule",
    "printed_schedule",
    "rank_one",
    "run",
    "theorem31",
    "theorem32",
]
