"""The book's figures: one style, one function a figure, each from a table or tensors.

Functions return a matplotlib Figure. They raise TypeError for an argument of another kind, such as
a text where a table is asked for, and ValueError for a table without a column that they read.
:func:`show` displays a figure in a notebook in two forms: an SVG whose text and axes take the
page's own colour, so that it is at home on light and dark pages, and a PNG for every other viewer.
Lines differ in dash as well as in colour, for readers without colour.
"""

from balancing.plots._style import FigureOutput, show
from balancing.plots.factorization import (
    escape,
    figure1,
    rank_one_steps,
    schedules,
    signal_ratios,
    two_stages,
)
from balancing.plots.faster import layer_errors, passes
from balancing.plots.fixes import (
    auxiliary,
    benchmark,
    convergence,
    descent,
    diffusion,
    hinge,
    modes,
    norm_contours,
    one_unit,
    phases,
    safe_exponents,
)
from balancing.plots.flows import (
    departure,
    finite_steps,
    imbalance_decay,
    imbalances,
    mobility,
    pairing,
    race,
)
from balancing.plots.invariants import (
    conserved,
    drift,
    drifts,
    entries,
    figure2,
    hyperbolas,
    kept,
    losses,
    predicted_drift,
    rescaled,
    shared,
    unrolled,
)
from balancing.plots.practice import bad_starts, rounding_errors, rounding_prediction, sparsity
from balancing.plots.real_networks import traced_units, training_drift, training_invariants

__all__ = [
    "FigureOutput",
    "auxiliary",
    "bad_starts",
    "benchmark",
    "conserved",
    "convergence",
    "departure",
    "descent",
    "diffusion",
    "drift",
    "drifts",
    "entries",
    "escape",
    "figure1",
    "figure2",
    "finite_steps",
    "hinge",
    "hyperbolas",
    "imbalance_decay",
    "imbalances",
    "kept",
    "layer_errors",
    "losses",
    "mobility",
    "modes",
    "norm_contours",
    "one_unit",
    "pairing",
    "passes",
    "phases",
    "predicted_drift",
    "race",
    "rank_one_steps",
    "rescaled",
    "rounding_errors",
    "rounding_prediction",
    "safe_exponents",
    "schedules",
    "shared",
    "show",
    "signal_ratios",
    "sparsity",
    "traced_units",
    "training_drift",
    "training_invariants",
    "two_stages",
    "unrolled",
]
