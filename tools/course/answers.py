"""Reference answers: the code of an exercise's solution under the name that its stub asks for.

Solutions are written for readers of a chapter: as a function with a name of its own, as a lambda or
as a set in the call of ``check``, with a confirmation behind it. For grading, each becomes
statements that give the name of the stub its value.
"""

import ast
import builtins
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tools import ToolError
from tools.course.sources import Exercise

# What a student may use whether or not the reference answers do, where the chapter imports it.
USUAL = {"math", "np", "torch", "nn", "bal", "check"}


@dataclass(frozen=True)
class Answer:
    """What a graded exercise is made of, as code.

    Attributes:
        name: The name that is checked.
        stub: The student's cell without its check.
        check: The call of ``check``.
        solution: Statements that give `name` its value.
    """

    name: str
    stub: str
    check: str
    solution: str


def answer(exercise: Exercise) -> Answer:
    """The graded form of an exercise that has a check.

    Raises:
        ToolError: The stub does not end in a check of a name, or no cell of the solution checks.
    """
    stub = ast.parse(exercise.stub)
    if not stub.body or (asked := _checked(stub.body[-1], exercise.number)) is None:
        raise ToolError(f"exercise {exercise.number}: the stub must end in its check")
    if not isinstance(asked, ast.Name):
        raise ToolError(f"exercise {exercise.number}: the stub must check a name, as check(.., f)")
    call = stub.body[-1]
    lines = exercise.stub.splitlines()
    return Answer(
        name=asked.id,
        stub=_dots_below("\n".join(lines[: call.lineno - 1]).strip("\n")),
        check="\n".join(lines[call.lineno - 1 :]).strip("\n"),
        solution=_solution(exercise, asked.id),
    )


def _solution(exercise: Exercise, name: str) -> str:
    """The solution up to its check, then `name` = what is checked."""
    kept: list[str] = []
    for code in exercise.solution_code:
        lines = code.splitlines()
        for statement in ast.parse(code).body:
            if (value := _checked(statement, exercise.number)) is not None:
                kept += lines[: statement.lineno - 1]
                given = ast.get_source_segment(code, value)
                if given != name:
                    kept.append(f"{name} = {given}")
                return "\n".join(kept).strip("\n")
        kept += [*lines, ""]
    raise ToolError(f"exercise {exercise.number}: no cell of its solution calls check")


def _checked(statement: ast.stmt, number: str) -> ast.expr | None:
    """The answer in ``check("NN.K", answer)``; None if the statement is something else."""
    match statement:
        case ast.Expr(
            ast.Call(func=ast.Name("check"), args=[ast.Constant(value), given], keywords=[])
        ) if value == number:
            return given
    return None


def _dots_below(stub: str) -> str:
    """``def f(x): ...`` with the dots on a line of their own, so that lines can be added there."""
    lines = stub.splitlines()
    if lines and lines[-1].startswith("def ") and lines[-1].endswith(": ..."):
        lines[-1:] = [lines[-1].removesuffix(" ..."), "    ..."]
    return "\n".join(lines)


def setup(cells: Sequence[str], answers: Iterable[Answer], named: Iterable[str] = ()) -> str:
    """Imports and definitions of a chapter that the answers need, as one cell.

    Args:
        cells: The code cells of the chapter in their order; the first one holds its imports.
        answers: Of the chapter's exercises.
        named: What statements speak of; needed where the chapter defines it.

    Raises:
        ToolError: A solution uses a value that only the chapter's text computes.
    """
    definitions = _definitions(cells)
    needed: set[str] = set()
    waiting = (USUAL | set(named)) & definitions.keys() | {
        name
        for each in answers
        for name in _free_names("\n".join((each.stub, each.solution, each.check)))
    }
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        if name not in definitions:
            raise ToolError(
                f"a solution needs '{name}', which no import, function or constant of the chapter "
                "defines: let it check the answer first, and confirm it with the chapter's values "
                "afterwards"
            )
        needed.add(name)
        waiting |= set(_free_names(definitions[name]))
    first = _without(cells[0], needed)
    later = [code for name, code in definitions.items() if name in needed and code not in cells[0]]
    return "\n\n".join([first, *dict.fromkeys(later)])


def _definitions(cells: Sequence[str]) -> dict[str, str]:
    """Name -> source of the import, function, class or lasting constant that defines it."""
    trees = [(code, ast.parse(code)) for code in cells]
    nodes = (node for _, tree in trees for node in ast.walk(tree))
    times = Counter(node.id for node in nodes if isinstance(node, ast.Name) and _is_set(node))
    found: dict[str, str] = {}
    for code, tree in trees:
        for statement in tree.body:
            source = ast.get_source_segment(code, statement) or ""
            for name in _defined(statement):
                if times[name] <= 1:  # another value later may be the one that is meant
                    found.setdefault(name, source)
    return found


def _is_set(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _defined(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.Import() | ast.ImportFrom():
            return [each.asname or each.name.partition(".")[0] for each in statement.names]
        case ast.FunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Assign(targets=[ast.Name(name)], value=value) if _is_literal(value):
            return [name]
    return []


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def _without(code: str, needed: set[str]) -> str:
    """The first cell with what is needed of it: settings stay where what they set is needed."""
    drop: set[int] = set()
    for statement in ast.parse(code).body:
        names = _defined(statement)
        if isinstance(statement, ast.Expr):
            keep = set(_free_names(ast.get_source_segment(code, statement) or "")) <= needed
        else:
            keep = bool(needed & set(names))
        if not keep:
            drop |= set(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    lines: list[str] = []
    for number, line in enumerate(code.splitlines(), start=1):
        if number not in drop and (line or (lines and lines[-1])):
            lines.append(line)
    return "\n".join(lines).strip("\n")


def _free_names(code: str) -> set[str]:
    """Names that the code uses and does not define; scopes count as one, which is enough here."""
    used, bound = set(), set(dir(builtins))
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(name, ast.Load()):
                used.add(name)
            case ast.Name(name):
                bound.add(name)
            case ast.arg(name) | ast.FunctionDef(name) | ast.ClassDef(name):
                bound.add(name)
            case ast.Import() | ast.ImportFrom():
                bound |= set(_defined(node))
    return used - bound
