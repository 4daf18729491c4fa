"""What balance is good for: quantization, pruning, training from a badly scaled start.

All of this is chosen here. Of the papers, Saul (2023) proposes the fix; that these are places to
try it, and every setting, is ours. Data: scikit-learn's handwritten digits.

Networks come in function-equivalent versions: as trained (or initialized), and *thrown*, every
hidden unit rescaled by a random factor :math:`e^{s z}`, :math:`z \\sim N(0, 1)`.
"""

from balancing.experiments.practice.descent import (
    TrainingConfig,
    TuningConfig,
    best_rates,
    training,
    tuning,
)
from balancing.experiments.practice.networks import Digits, initial, thrown, trained
from balancing.experiments.practice.rounding import (
    QuantizationConfig,
    predicted_error,
    quantization,
    quantize,
    sensitivity,
)
from balancing.experiments.practice.sparsity import PruningConfig, prune, pruning

__all__ = [
    "Digits",
    "PruningConfig",
    "QuantizationConfig",
    "TrainingConfig",
    "TuningConfig",
    "best_rates",
    "initial",
    "predicted_error",
    "prune",
    "pruning",
    "quantization",
    "quantize",
    "sensitivity",
    "thrown",
    "trained",
    "training",
    "tuning",
]
