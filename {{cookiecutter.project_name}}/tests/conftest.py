"""What the tests share: small data, and quick runs made by the real command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from {{ cookiecutter.__package_name }}.__main__ import main

Command = Callable[..., tuple[int, str, str]]
TINY = ("data.limit=60", "data.features=64", "model.hidden=8", "trainer.epochs=2")


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Type a command; get its exit code, stdout and stderr. Runs go to tmp_path/runs."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        arguments = [word.format(tmp=tmp_path) for word in words]
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def train(command: Command) -> Callable[..., Path]:
    """Train a tiny run with these overrides; get its folder."""

    def run(*overrides: str) -> Path:
        code, out, err = command("train", *TINY, "output_dir={tmp}/runs", *overrides)
        assert code == 0, err
        return Path(out.strip())

    return run


def read_log(run: Path, split: str = "") -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, of one split or of all, without what the clock decides."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for record in records:
        record.pop("time"), record.pop("rate", None)
    return [record for record in records if record["split"] == (split or record["split"])]
