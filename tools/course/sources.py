"""The editions of a chapter and its exercises, cut from the chapter's source as text.

A chapter is written once, with its solutions, its notes for the lecturer and its slides. What an
edition leaves out is taken from the text before anything is built from it, so that no page, search
index or preview can show it.

A block is what stands between two fences of colons or backticks; an inner one has fewer of them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tools import ToolError

# What each edition leaves out. A gated solution ends at `solution-end`, cells in between included.
LEFT_OUT = {
    "book": {"teaching", "slide"},
    "student": {"teaching", "slide", "solution", "solution-start"},
    "instructor": {"slide"},
}
GRADES = ("recall", "compute", "prove")

_COURSE_KINDS = {"teaching", "slide", "show", "notes", "solution", "solution-start", "solution-end"}
_OPENING = re.compile(
    r"^ {0,3}(?P<fence>:{3,}|`{3,})(?:\{(?P<kind>[^}\s]+)\}[ \t]*(?P<argument>.*?)|[^`{]*)[ \t]*$"
)
_OPTION = re.compile(r"^:(?P<name>[\w-]+):[ \t]*(?P<value>.*?)[ \t]*$")
_LABEL = re.compile(r"^ex-(\d\d)-(\d+)(-body)?$")


@dataclass(frozen=True)
class Block:
    """A fenced block at the top level of a chapter, or the lines between two of them.

    Attributes:
        kind: Name of the directive; "" for code that is only shown, and for lines between blocks.
        argument: What stands behind the name.
        lines: All lines, fences included.
        number: Line of the chapter that it begins at, counted from 1.
    """

    kind: str
    argument: str
    lines: tuple[str, ...]
    number: int

    @property
    def options(self) -> dict[str, str]:
        """The lines `:name: value` below the opening fence."""
        return {found["name"]: found["value"] for found in self._option_lines()}

    @property
    def body(self) -> str:
        """What stands between the fences, without options and outer empty lines."""
        lines = self.lines[1 + len(self._option_lines()) : -1]
        if lines and lines[0].strip() == "---":  # options of a cell, as YAML
            lines = lines[lines.index("---", 1) + 1 :]
        return "\n".join(lines).strip("\n")

    def _option_lines(self) -> list[re.Match[str]]:
        found = []
        for line in self.lines[1:-1]:
            if (match := _OPTION.match(line)) is None:
                break
            found.append(match)
        return found


@dataclass(frozen=True)
class Exercise:
    """An exercise of a chapter with its solution.

    Attributes:
        number: Of the check, for example "09.2".
        label: What references and the solution name it by.
        title: Its title.
        grade: "recall", "compute" or "prove"; "" where the chapter says none.
        statement: MyST.
        stub: Code of the cell to fill in; "" without one.
        solution_text: MyST, without code cells.
        solution_code: Code of the solution's cells.
    """

    number: str
    label: str
    title: str
    grade: str
    statement: str
    stub: str
    solution_text: str
    solution_code: tuple[str, ...]


def blocks(text: str, file: str = "chapter") -> list[Block]:
    """The blocks of a chapter in their order; their lines, joined, are the chapter.

    Raises:
        ToolError: A block is not closed, or a fence closes nothing.
    """
    found: list[Block] = []
    between: list[str] = []
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opening = _OPENING.match(lines[at])
        if opening is None:
            between.append(lines[at])
            at += 1
            continue
        fence, kind = opening["fence"], opening["kind"] or ""
        if fence[0] == ":" and not kind:
            raise ToolError(f"{file}, line {at + 1}: '{lines[at].strip()}' closes nothing")
        if between:
            found.append(Block("", "", tuple(between), at + 1 - len(between)))
            between = []
        end = _end(lines, at, fence, file)
        block = tuple(lines[at : end + 1])
        found.append(Block(kind, opening["argument"] or "", block, at + 1))
        at = end + 1
    if between:
        found.append(Block("", "", tuple(between), at + 1 - len(between)))
    return found


def _end(lines: list[str], start: int, fence: str, file: str) -> int:
    """Index of the fence that closes the block opened at the index `start`."""
    closing = re.compile(rf"^ {{0,3}}{fence[0]}{{{len(fence)},}}[ \t]*$")
    for at in range(start + 1, len(lines)):
        if closing.match(lines[at]):
            return at
        inner = _OPENING.match(lines[at])
        # A block inside has fewer: this one would close the outer one at its own end.
        if inner and inner["kind"] and inner["fence"].startswith(fence):
            break
    raise ToolError(f"{file}, line {start + 1}: the block '{lines[start].strip()}' is not closed")


def edition(text: str, name: str, file: str = "chapter") -> str:
    """The chapter `text` without what the edition `name` leaves out.

    Args:
        text: Source of a chapter.
        name: "book", "student" or "instructor".
        file: What errors call the chapter.

    Raises:
        ToolError: The edition is unknown, a block or a gated solution is not closed, or something
            that may have to be left out stands inside another block.
    """
    kept: list[str] = []
    after_gap = False
    for block, keep in _sorted_out(text, name, file):
        lines = list(block.lines)
        while after_gap and keep and lines and not lines[0].strip():
            lines.pop(0)
        if keep:
            kept += lines
            after_gap = after_gap and not lines
        else:
            after_gap = True
    return "\n".join(kept).rstrip("\n") + "\n" if after_gap else "\n".join(kept)


def kept_cells(text: str, name: str, file: str = "chapter") -> list[int]:
    """Which of the chapter's code cells, counted from 0, the edition `name` keeps."""
    cells = [keep for block, keep in _sorted_out(text, name, file) if block.kind == "code-cell"]
    return [index for index, keep in enumerate(cells) if keep]


def _sorted_out(text: str, name: str, file: str) -> Iterator[tuple[Block, bool]]:
    """Each block, and whether the edition keeps it."""
    if name not in LEFT_OUT:
        raise ToolError(f"no edition '{name}'; there are: {', '.join(LEFT_OUT)}")
    left_out = LEFT_OUT[name]
    for block, solved in _gated(blocks(text, file), file):
        _refuse_inner(block, file)
        gated = solved is not None and "solution-start" in left_out
        yield block, not gated and block.kind not in left_out


def _gated(found: list[Block], file: str) -> Iterator[tuple[Block, str | None]]:
    """Each block, with the label of the gated solution that it belongs to."""
    start: Block | None = None
    for block in found:
        if block.kind == "solution-start":
            if start is not None:
                raise _open_solution(start, file)
            start = block
        if block.kind == "solution-end" and start is None:
            raise ToolError(f"{file}, line {block.number}: this solution-end ends no solution")
        yield block, None if start is None else start.argument
        if block.kind == "solution-end":
            start = None
    if start is not None:
        raise _open_solution(start, file)


def _open_solution(start: Block, file: str) -> ToolError:
    label = start.argument
    return ToolError(f"{file}, line {start.number}: the solution '{label}' has no solution-end")


def _refuse_inner(block: Block, file: str) -> None:
    """What an edition may leave out must not hide inside a block that it keeps."""
    if block.kind in {"show", "notes"}:
        raise ToolError(f"{file}, line {block.number}: '{block.kind}' belongs into a slide")
    fenced = _OPENING.match(block.lines[0]) is not None
    if block.kind in {"code-cell", "teaching", "slide"} or (fenced and not block.kind):
        return
    for offset, line in enumerate(block.lines[fenced:], start=fenced):
        inner = _OPENING.match(line.lstrip(" \t>*+-.0123456789"))  # in lists and quotes, too
        if inner and inner["kind"] in _COURSE_KINDS:
            raise ToolError(
                f"{file}, line {block.number + offset}: '{inner['kind']}' must not stand inside "
                "something else"
            )


def exercises(text: str, file: str = "chapter") -> list[Exercise]:
    """The exercises of a chapter in their order.

    Raises:
        ToolError: As for `edition`, or a label is not ``ex-NN-K``, or is used twice, or a solution
            names no exercise before it.
    """
    found: dict[str, Block] = {}
    stubs: dict[str, str] = {}
    texts: dict[str, list[str]] = {}
    codes: dict[str, list[str]] = {}
    waiting = ""  # label of the exercise whose stub may follow
    for block, solved in _gated(blocks(text, file), file):
        if block.kind == "exercise":
            label = block.options.get("label", "")
            if not _LABEL.match(label) or label in found:
                raise ToolError(
                    f"{file}, line {block.number}: the label of an exercise is ex-NN-K and its "
                    f"own, not '{label}'"
                )
            found[label], waiting = block, label
        elif block.kind in {"solution", "solution-start"}:
            if block.argument not in found:
                raise ToolError(
                    f"{file}, line {block.number}: no exercise '{block.argument}' before this"
                )
            waiting = ""
            texts.setdefault(block.argument, []).append(block.body)
        elif block.kind == "code-cell":
            if solved is not None:
                codes.setdefault(solved, []).append(block.body)
            elif waiting:
                stubs[waiting], waiting = block.body, ""
        elif solved is not None and block.kind != "solution-end":
            texts[solved].append("\n".join(block.lines).strip("\n"))
        elif not block.kind and any(line.startswith("#") for line in block.lines):
            waiting = ""
    return [
        Exercise(
            number=_number(label),
            label=label,
            title=block.argument,
            grade=_grade(block),
            statement=block.body,
            stub=stubs.get(label, ""),
            solution_text="\n\n".join(filter(None, texts.get(label, []))),
            solution_code=tuple(codes.get(label, [])),
        )
        for label, block in found.items()
    ]


def _number(label: str) -> str:
    found = _LABEL.match(label)
    assert found is not None
    return f"{found[1]}.{found[2]}"


def _grade(block: Block) -> str:
    named = set(block.options.get("class", "").split())
    return next((grade for grade in GRADES if grade in named), "")
