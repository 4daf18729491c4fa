"""Rescaling symmetry in deep networks: invariants, fixes and flows.

One object, the rescaling graph of a network (:func:`trace`), and one quantity on it, the
imbalance of a hidden unit: what flows in minus what flows out (:func:`imbalance`).
"""

from balancing.descent import WeightBalancingDescent
from balancing.factorization import FactorizationResult, factorize
from balancing.fixes import BalanceResult, balance
from balancing.flows import gradient_flow, share_velocity, weight_balancing_flow
from balancing.graph import Edge, Group, NotHomogeneousError, RescalingGraph, Source, trace
from balancing.invariants import (
    InvariantMonitor,
    layer_invariants,
    matrix_invariants,
    unit_invariants,
)
from balancing.networks import mlp
from balancing.norms import imbalance, lpq_norm, shares
from balancing.rescaling import rescale
from balancing.trajectories import Trajectory, integrate_flow

__version__ = "0.1.0"

__all__ = [
    "BalanceResult",
    "Edge",
    "FactorizationResult",
    "Group",
    "InvariantMonitor",
    "NotHomogeneousError",
    "RescalingGraph",
    "Source",
    "Trajectory",
    "WeightBalancingDescent",
    "balance",
    "factorize",
    "gradient_flow",
    "imbalance",
    "integrate_flow",
    "layer_invariants",
    "lpq_norm",
    "matrix_invariants",
    "mlp",
    "rescale",
    "share_velocity",
    "shares",
    "trace",
    "unit_invariants",
    "weight_balancing_flow",
]
