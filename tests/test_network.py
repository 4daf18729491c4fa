"""Nothing asks for a network: see conftest.py, under which every other test runs, too.

So the claims and a reproduction (test_cli.py), the building of sites (test_course.py) and the
kernels of the notebooks are watched where they are tested.
"""

import pkgutil
import re
import subprocess
import sys

import balancing
from tools import ROOT


def test_asking_for_the_network_fails_a_test_however_it_is_hidden() -> None:
    cases = ROOT / "tests" / "offline" / "asking.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "-q", str(cases)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)", done.stdout, re.MULTILINE)
    asking = ["datagram", "kernel", "pool", "program", "this_process"]
    assert sorted(outcomes) == [
        *(("FAILED", f"test_{name}") for name in asking),
        ("PASSED", "test_this_machine_is_no_network"),
    ], done.stdout + done.stderr
    # each says so twice: in its report, and in the summary at the end
    assert done.stdout.count("This test asked for the network:\n") >= len(asking)


def test_importing_any_module_asks_for_nothing() -> None:
    names = [each.name for each in pkgutil.walk_packages(balancing.__path__, "balancing.")]
    assert len(names) > 50
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    subprocess.run([sys.executable, "-W", "error", "-c", code, *names], cwd=ROOT, check=True)
