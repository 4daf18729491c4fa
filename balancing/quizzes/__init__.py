"""The quiz that closes a chapter: a few questions, and a reply to every answer that one can choose.

``quiz("01")`` in a notebook shows the questions of chapter 1. They stand in ``01.toml`` beside this
file::

    [[question]]
    text = 'Which activation lets a factor $a > 0$ pass?'

    [[question.option]]
    text = 'the sigmoid'
    reply = 'It squashes the factor.'

    [[question.option]]
    text = 'the ReLU'
    reply = '$\\max(az, 0) = a \\max(z, 0)$.'
    right = true

Texts may contain ``$formulas$``, ``*emphasis*`` and ```code```.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

__all__ = ["Option", "Question", "Quiz", "available", "quiz"]

QUESTIONS = range(3, 7)  # how many a quiz may have
OPTIONS = range(3, 5)  # and each of its questions


@dataclass(frozen=True)
class Option:
    """One of the answers that a question offers.

    Attributes:
        text: what can be chosen.
        reply: why it is right, or what one may have thought wrongly.
        right: whether it is the answer.
    """

    text: str
    reply: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A question and the answers that it offers, of which one is right."""

    text: str
    options: tuple[Option, ...]

    @property
    def answer(self) -> Option:
        """The right one."""
        return next(option for option in self.options if option.right)


@dataclass(frozen=True)
class Quiz:
    """The questions of a chapter; the last value of a cell shows them, to be answered in place.

    Attributes:
        chapter: its number, for example ``"01"``.
        questions: in the order of the file.
    """

    chapter: str
    questions: tuple[Question, ...]

    @classmethod
    def read(cls, path: Path | str) -> Quiz:
        """The quiz of the chapter that the file is named after.

        Raises:
            ValueError: the file is not as it should be; the message says where and why.
            OSError: it cannot be read.
        """
        path = Path(path)
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name}: {error}") from None
        _check_keys(data, {"question"}, set(), path.name)
        entries = data["question"]
        _check_count(entries, QUESTIONS, "questions", path.name)
        questions = (
            _question(entry, f"{path.name}, question {number}")
            for number, entry in enumerate(entries, start=1)
        )
        made = cls(path.stem, tuple(questions))
        made._page  # noqa: B018 (it checks the formulas)
        return made

    @cached_property
    def _page(self) -> str:
        from balancing.quizzes import _page

        return _page.form(self)

    def _repr_html_(self) -> str:
        return self._page

    def __repr__(self) -> str:
        """Questions and options, for a terminal; not which of them is right."""
        lines = [f"Quiz of chapter {self.chapter.lstrip('0')}"]
        for number, question in enumerate(self.questions, start=1):
            lines += ["", f"{number}. {question.text}"]
            lines += [
                f"   {letter}) {option.text}"
                for letter, option in zip("abcd", question.options, strict=False)
            ]
        return "\n".join(lines)


def quiz(chapter: str) -> Quiz:
    """The quiz of a chapter.

    Args:
        chapter: its number with two digits, for example ``"01"``.

    Raises:
        ValueError: there is no such quiz, or its file is not as it should be.
    """
    if chapter not in available():
        raise ValueError(f"no quiz '{chapter}'; there are: {', '.join(available())}")
    return Quiz.read(_folder() / f"{chapter}.toml")


def available() -> list[str]:
    """The chapters that have a quiz."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def _folder() -> Path:
    return Path(str(files(__package__)))


def _question(entry: Any, where: str) -> Question:
    _check_keys(entry, {"text", "option"}, set(), where)
    _check_count(entry["option"], OPTIONS, "options", where)
    options = [
        _option(each, f"{where}, option {number}")
        for number, each in enumerate(entry["option"], start=1)
    ]
    if (right := sum(option.right for option in options)) != 1:
        raise ValueError(f"{where}: exactly one option must have right = true, not {right}")
    if len({option.text for option in options}) < len(options):
        raise ValueError(f"{where}: two options have the same text")
    return Question(_text(entry, "text", where), tuple(options))


def _option(entry: Any, where: str) -> Option:
    _check_keys(entry, {"text", "reply"}, {"right"}, where)
    if not isinstance(right := entry.get("right", False), bool):
        raise ValueError(f"{where}: right must be true or false, not {right!r}")
    return Option(_text(entry, "text", where), _text(entry, "reply", where), right)


def _text(entry: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(text := entry[key], str) or not text.strip():
        raise ValueError(f"{where}: '{key}' must be a text, not {text!r}")
    return " ".join(text.split())


def _check_keys(entry: Any, needed: set[str], allowed: set[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: must be a table, not {entry!r}")
    if missing := sorted(needed - entry.keys()):
        raise ValueError(f"{where}: '{missing[0]}' is missing")
    if unknown := sorted(entry.keys() - needed - allowed):
        raise ValueError(f"{where}: unknown key '{unknown[0]}'")


def _check_count(entries: Any, allowed: range, what: str, where: str) -> None:
    if not isinstance(entries, list) or len(entries) not in allowed:
        found = len(entries) if isinstance(entries, list) else repr(entries)
        raise ValueError(f"{where}: {allowed[0]} to {allowed[-1]} {what} are needed, not {found}")
