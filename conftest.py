"""For all tests, those of the notebooks, too: nothing reaches a network."""

import os
import runpy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

BLOCK = Path(__file__).parent / "tests" / "offline"
LOG = "BALANCING_NETWORK_LOG"


def pytest_configure(config: pytest.Config) -> None:
    """Block this process and, by its environment, all that it starts."""
    log, name = tempfile.mkstemp(prefix="balancing-network-")
    os.close(log)
    os.environ[LOG] = name
    config.add_cleanup(lambda: Path(name).unlink(missing_ok=True))
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(BLOCK) not in folders:  # a test that runs pytest is blocked already
        os.environ["PYTHONPATH"] = os.pathsep.join([str(BLOCK), *filter(None, folders)])
        runpy.run_path(str(BLOCK / "sitecustomize.py"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Fail a test that asked for the network, whatever it made of the refusal."""
    report = yield
    log = Path(os.environ[LOG])
    if asked := log.read_text(encoding="utf-8"):
        log.write_text("", encoding="utf-8")
        report.outcome = "failed"
        report.longrepr = (
            f"{report.longreprtext}\nThis test asked for the network:\n{asked}".strip()
        )
    return report
