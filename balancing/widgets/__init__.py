"""Explorers: figures that answer the reader, in a live notebook and on a page without a kernel.

Each is one Python class, which holds the state and draws the still image, and one JavaScript module
of the same name, which does the mathematics and the drawing where the reader is.
"""

from balancing.widgets._explorer import EXPLORER_TYPE, Explorer
from balancing.widgets.flow import Flow
from balancing.widgets.hyperbola import Hyperbola
from balancing.widgets.layers import Layers
from balancing.widgets.race import Race
from balancing.widgets.rescale import Rescale

__all__ = ["EXPLORER_TYPE", "Explorer", "Flow", "Hyperbola", "Layers", "Race", "Rescale"]
