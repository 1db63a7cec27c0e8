"""What a type checker says of programs that use the package: nothing of right ones, the line of each mistake."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MARK = "# rejected"

pytestmark = pytest.mark.skipif(find_spec("pyright") is None, reason="pyright is not installed")


@pytest.fixture(scope="module")
def reported():
    """By file, the lines with an error and what it says."""
    files = [HERE / "typing_accepted.py", HERE / "typing_rejected.py"]
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *map(str, files)]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # it could not be started, as where its JavaScript was never fetched
        pytest.skip(f"pyright does not run here: {done.stderr.strip()[:200]}")
    found: dict[str, dict[int, str]] = {path.name: {} for path in files}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        if one["severity"] == "error":
            found[Path(one["file"]).name][one["range"]["start"]["line"] + 1] = one["message"]
    return found


def test_right_uses_are_accepted(reported):
    assert reported["typing_accepted.py"] == {}


def test_every_mistake_is_reported_and_nothing_else(reported):
    lines = (HERE / "typing_rejected.py").read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, start=1) if line.endswith(MARK)}
    assert len(marked) > 20
    assert set(reported["typing_rejected.py"]) == marked
