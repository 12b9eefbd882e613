"""A run may die at any moment: see torture.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize(("options", "kills"), [([], 30), (["--processes"], 20)])
def test_a_run_that_is_killed_at_any_moment_ends_like_one_that_is_not(
    default_bake: Path, options: list[str], kills: int
) -> None:
    script = Path(__file__).with_name("torture.py")
    words: list[str | Path] = [sys.executable, script, default_bake, "--kills", str(kills)]
    done = subprocess.run([*words, *options], capture_output=True, encoding="utf-8")
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    counts = re.search(r"^(\d+) kills, .* (\d+) during a save;", done.stdout, re.MULTILINE)
    assert counts
    assert int(counts[1]) >= kills and int(counts[2]) >= kills / 6
