"""What a course adds to the chapters: grades of exercises, notes for the lecturer, slides.

An exercise says what it asks for, by its class: ``recall``, ``compute`` or ``prove``.

    :::{teaching} How a factor travels
    :minutes: 10
    A note for the lecturer. Only the edition for instructors has it.
    :::

    :::{teaching} Answers to the quiz
    :quiz: 01
    :::

    ::::{slide} What a unit does not notice
    - A few short lines.

    :::{show} thm-symmetry
    :::
    :::{notes}
    What to say.
    :::
    ::::

``show`` puts a theorem, a figure or an explorer of the chapter on the slide. Slides are no part of
a page: they are taken from it before it is written, and slides.py makes decks of them.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ConfigError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx_exercise.nodes import is_exercise_node

from balancing.quizzes import quiz

EDITIONS = ("book", "student", "instructor")
GRADES = {"recall": "recall", "compute": "compute", "prove": "prove or extend"}

logger = logging.getLogger(__name__)


class Slide(nodes.General, nodes.Element):
    """A slide: its title, what stands on it, and the speaker's notes."""


class SlideTitle(nodes.TextElement):
    """The title of a slide."""


class Show(nodes.General, nodes.Element):
    """The place of a thing of the chapter, by its ``label``."""


class Notes(nodes.General, nodes.Element):
    """What the speaker says."""


class SlideDirective(SphinxDirective):
    """``{slide} Title``."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """One slide, which is no part of the page."""
        words, _ = self.state.inline_text(self.arguments[0], self.lineno)
        slide = Slide("", SlideTitle("", "", *words), classes=["slide"])
        self.set_source_info(slide)
        self.state.nested_parse(self.content, self.content_offset, slide)
        return [slide]


class ShowDirective(SphinxDirective):
    """``{show} label``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The place, to be filled when the chapter has been read."""
        show = Show(label=self.arguments[0])
        self.set_source_info(show)
        return [show]


class NotesDirective(SphinxDirective):
    """``{notes}``."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The notes of the slide around it."""
        notes = Notes()
        self.set_source_info(notes)
        self.state.nested_parse(self.content, self.content_offset, notes)
        return [notes]


class TeachingDirective(SphinxDirective):
    """``{teaching} Title``, with the options ``minutes`` and ``quiz``."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {
        "minutes": directives.positive_int,
        "quiz": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """A box in the edition for instructors, nothing in the others."""
        if self.config.course_edition != "instructor":
            return []
        minutes = self.options.get("minutes")
        time = f" ({minutes} min)" if minutes else ""
        words, _ = self.state.inline_text(
            f"For the lecturer: {self.arguments[0]}{time}", self.lineno
        )
        box = nodes.admonition("", nodes.title("", "", *words), classes=["teaching"])
        self.set_source_info(box)
        self.state.nested_parse(self.content, self.content_offset, box)
        if "quiz" in self.options:
            try:
                lines = answers(self.options["quiz"])
            except ValueError as error:
                raise self.error(str(error)) from None
            text = StringList(lines, self.get_source_info()[0])
            self.state.nested_parse(text, self.content_offset, box)
        return [box]


def answers(chapter: str) -> list[str]:
    """The right answers of a chapter's quiz and the reasons for them, as lines of Markdown.

    Raises:
        ValueError: the chapter has no quiz, or it is not as it should be.
    """
    lines = []
    for number, question in enumerate(quiz(chapter).questions, start=1):
        right = question.answer
        stop = "" if right.text[-1] in ".!?" else "."
        lines += [f"{number}. {question.text}", ""]
        lines += [f"   **Answer:** {right.text}{stop} {right.reply}", ""]
    return lines


def check_slides(app: Sphinx, document: nodes.document) -> None:
    """Warn of parts of slides that would not come out."""
    for part in list(document.findall(lambda node: isinstance(node, Show | Notes))):
        if slide_around(part) is None:
            logger.warning("'%s' stands on no slide", type(part).__name__.lower(), location=part)
            part.parent.remove(part)
    for slide in document.findall(Slide):
        for show in slide.findall(Show):
            if shown(document, show["label"]) is None:
                message = "no theorem, figure or explorer of this chapter is labelled '%s'"
                logger.warning(message, show["label"], location=show)
        for node in slide.findall(nodes.Element):
            if label := node.get("label") if isinstance(node, nodes.math_block) else None:
                logger.warning("the label '%s' on a slide leads nowhere", label, location=slide)


def slide_around(node: nodes.Node) -> Slide | None:
    """The slide that a node stands on."""
    while node is not None and not isinstance(node, Slide):
        node = node.parent
    return node


def shown(document: nodes.document, label: str) -> nodes.Element | None:
    """The theorem-like box or the figure with a label, which is its first anchor or its name."""
    for node in document.findall(nodes.Element):
        names = (*node["ids"], *node["names"])
        kind = isinstance(node, nodes.figure) or "proof" in node["classes"]
        if kind and label in names:
            return node
    return None


def take_slides(app: Sphinx, document: nodes.document, docname: str) -> None:
    """Take the slides from a page that is about to be written; `slides_of` has them."""
    slides = list(document.findall(Slide))
    for slide in slides:
        slide.parent.remove(slide)
    document.slides = slides


def slides_of(document: nodes.document) -> list[Slide]:
    """The slides of a page, with all references resolved."""
    return list(getattr(document, "slides", ()))


def name_grades(app: Sphinx, document: nodes.document, docname: str) -> None:
    """Say after an exercise's title what it asks for."""
    for exercise in document.findall(is_exercise_node):
        for grade in _grades(exercise):
            title = exercise.next_node(nodes.title)
            title += nodes.Text(" ")
            title += nodes.inline("", GRADES[grade], classes=["exercise-grade"])


def _grades(exercise: nodes.Element) -> Iterator[str]:
    return (name for name in exercise["classes"] if name in GRADES)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_config_value("course_edition", "book", "env", [str])
    for node in (Slide, SlideTitle, Show, Notes):
        app.add_node(node)
    app.add_directive("slide", SlideDirective)
    app.add_directive("show", ShowDirective)
    app.add_directive("notes", NotesDirective)
    app.add_directive("teaching", TeachingDirective)
    app.connect("config-inited", _check_edition)
    app.connect("doctree-read", check_slides)
    app.connect("doctree-resolved", take_slides)
    app.connect("doctree-resolved", name_grades)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _check_edition(app: Sphinx, config: Any) -> None:
    if config.course_edition not in EDITIONS:
        known = ", ".join(EDITIONS)
        raise ConfigError(f"course_edition is '{config.course_edition}'; it can be: {known}")
