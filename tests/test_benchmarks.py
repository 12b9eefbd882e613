"""What README.md says of speed is what was measured, and what measures it still works."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEMPLATE

RESULTS = TEMPLATE / "benchmarks" / "RESULTS.md"


def test_the_readme_quotes_the_results() -> None:
    text, results = (TEMPLATE / "README.md").read_text("utf-8"), RESULTS.read_text("utf-8")
    _, _, section = text.partition("\n## Speed\n")
    section, _, _ = section.partition("\n## ")
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 10
    assert set(rows) <= set(results.splitlines())
    found = re.search(r"one process .*\*\*(0.\d+)\*\* (\(.*?\))", results)
    assert found and f"need {found[1]} {found[2]} of the time" in text


def test_the_results_are_of_what_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RESULTS.parent))
    bench = importlib.import_module("bench")
    rows = [row.what for rows in bench.COMPARISONS.values() for row in rows]
    lines = RESULTS.read_text("utf-8").splitlines()
    told = [line.split(" | ")[0][2:] for line in lines if re.match(r"\| [^|]", line)]
    assert sorted(told) == sorted([*rows, bench.MEMORY])
    assert bench.CONDITIONS in RESULTS.read_text("utf-8")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
@pytest.mark.parametrize("side", ["ours, words", "ours, pass", "ours, save a run", "tutorial"])
def test_a_side_does_a_round(side: str, default_bake: Path, tmp_path: Path) -> None:
    # It is asked for one, and tells its seconds and bytes before and after it.
    done = subprocess.run(
        [sys.executable, TEMPLATE / "benchmarks" / "sides.py", side, default_bake],
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        input="\n",
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    ready, answer = done.stdout.splitlines()
    assert float(answer.split()[0]) > 0
    assert int(ready.split()[1]) > 50e6
