"""Everything that a course needs, into dist/course. This is `make course`.

python -m tools.course
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tools import ToolError, assets, notebooks
from tools.course import assignments, editions, slides


def build(out: Path = editions.OUT) -> dict[str, float]:
    """Bring all parts up to date; returns the seconds that each took.

    Raises:
        ToolError: A part could not be built.
    """
    assets.fetch()
    notebooks.refresh()
    seconds: dict[str, float] = {}

    def timed(part: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        seconds[part] = time.perf_counter() - start
        print(f"{part}: {seconds[part]:.0f} s", flush=True)

    # Each is a process of its own, on one of two cores.
    with ThreadPoolExecutor(max_workers=2) as pool:
        started = [
            pool.submit(timed, name, partial(editions.build, name, out)) for name in editions.NAMES
        ]
        for each in started:
            each.result()
    # These are made of the instructor's pages.
    timed("slides", partial(_slides, out / "slides"))
    timed("assignments", partial(assignments.build, out / "assignments"))
    return seconds


def _slides(target: Path) -> None:
    """Bring the decks up to date: those of the instructor's site, on their own."""
    wanted = editions.fingerprint()
    if not editions.is_current("slides", target, wanted):
        slides.write(editions.built("instructor"), target)
        editions.mark("slides", target, wanted)


def main() -> int:
    """The command line."""
    start = time.perf_counter()
    try:
        build()
    except ToolError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"The course is ready, {time.perf_counter() - start:.0f} s.\n{editions.OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
