"""What all explorers are: widgets whose mathematics runs where they are shown."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import anywidget
from matplotlib.figure import Figure
from traitlets import TraitType

from balancing import plots
from balancing.plots._style import FIGURE_TYPE
from balancing.widgets import _bundle

__all__ = ["EXPLORER_TYPE", "Explorer"]

EXPLORER_TYPE = "application/vnd.balancing.explorer+json"


class Explorer(anywidget.AnyWidget):
    """A picture that answers the reader: in a live notebook, and on a page without a kernel.

    A subclass ``Name`` has its JavaScript in ``name.js`` and its state in traits that are synced.
    What a notebook stores of it is that state and a still image: the state makes it live on a page
    of the book, the still is what print and other viewers show.

    Attributes:
        title: what it lets one do, in a few words.
    """

    title: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "_esm" not in vars(cls):  # anywidget itself subclasses once more, to make traits of them
            cls._esm = _bundle.widget_module(cls.module_name())
            cls._css = _bundle.style()
        super().__init_subclass__(**kwargs)

    @classmethod
    def module_name(cls) -> str:
        """Name of its JavaScript module."""
        return cls.__name__.lower()

    def still(self) -> tuple[Figure, str]:
        """A figure of the present state, and what one would see in it."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """The values of its own traits, without the code that anywidget adds to them."""
        inherited = anywidget.AnyWidget.class_traits()
        own: dict[str, TraitType[Any, Any]] = self.class_traits(sync=True)
        return {
            name: getattr(self, name)
            for name in own
            if name not in inherited and not name.startswith("_")
        }

    def __repr__(self) -> str:
        return f"<Explorer: {self.title}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        live, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        still = plots.show(*self.still())._repr_mimebundle_()
        stored = {
            "explorer": self.module_name(),
            "title": self.title,
            "state": self.state(),
            "still": still[FIGURE_TYPE],
        }
        data = {
            **live,
            "text/plain": repr(self),
            "image/png": still["image/png"],
            EXPLORER_TYPE: json.dumps(stored, sort_keys=True),
        }
        return data, metadata
