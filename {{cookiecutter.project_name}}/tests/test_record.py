"""The record tells what ran, and digests tell weights apart."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from {{ cookiecutter.__package_name }} import record


def test_two_runs_that_start_at_once_get_a_folder_each(tmp_path: Path) -> None:
    create = partial(record.create_run, tmp_path / "runs")
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(create, ["a b/\uc774"] * 8))
    assert len(set(folders)) == 8
    assert all(folder.parent == tmp_path / "runs" for folder in folders)
    assert all(folder.name.startswith("a_b__-2") for folder in folders)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(record.RunError, match=r"output_dir: cannot make .*: Not a directory"):
        record.create_run(tmp_path / "file", "x")


def test_a_digest_depends_on_name_dtype_shape_and_every_bit_but_not_on_order() -> None:
    base = {"a": torch.arange(4.0), "b": torch.zeros(())}
    same = {"b": torch.zeros(()), "a": torch.arange(8.0)[:4].clone()}
    nudged = torch.arange(4.0)
    nudged[3] = nudged[3].nextafter(torch.tensor(9.0))
    others: list[dict[str, torch.Tensor]] = [
        {"c": base["a"], "b": base["b"]},
        {**base, "a": base["a"].view(2, 2)},
        {**base, "a": base["a"].view(torch.int32)},
        {**base, "a": nudged},
        {**base, "b": -torch.zeros(())},
        {"a": base["a"]},
    ]
    assert record.digest(base) == record.digest(same)
    assert len({record.digest(state) for state in [base, *others]}) == 1 + len(others)
    record.digest({"bf16": torch.zeros(2, dtype=torch.bfloat16), "empty": torch.zeros(0)})


def test_a_fingerprint_depends_on_names_and_contents(tmp_path: Path) -> None:
    a, b = tmp_path / "data" / "a", tmp_path / "data" / "b"
    a.parent.mkdir()
    found = {record.fingerprint(tmp_path / "none")}
    for path, text in ((a, "1"), (b, "1"), (a, "3")):
        path.write_text(text, encoding="utf-8")
        found |= {record.fingerprint(path), record.fingerprint(path.parent)}
    assert len(found) == 7
    assert record.fingerprint(a.parent) in found


def start(root: Path) -> dict[str, object]:
    folder = root / "runs" / "x"
    folder.mkdir(parents=True)
    (root / "d.csv").write_text("data", encoding="utf-8")
    facts = record.describe(root, root / "d.csv", torch.device("cpu"))
    record.start(folder, "seed: 1\n", facts, root)
    assert (folder / "config.yaml").read_text(encoding="utf-8") == "seed: 1\n"
    manifest: dict[str, object] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def test_the_manifest_tells_what_ran_and_not_who_ran_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, near = tmp_path / "configs" / "c.yaml", f"{tmp_path}-2/z.yaml"
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setattr(sys, "argv", ["x", "train", str(config), "/home/somebody/y.yaml", near])
    manifest = start(tmp_path)
    package = record.__name__.partition(".")[0]
    assert manifest["command"] == [package, "train", "./configs/c.yaml", "~/y.yaml", near]
    expected = {
        "command", "folder", "python", "packages", "platform", "cpu", "device", "gpu",
        "threads", "processes", "deterministic_algorithms", "cublas_workspace",
        "git_commit", "git_dirty", "data", "source",
    }  # fmt: skip
    assert set(manifest) == expected
    assert "somebody" not in json.dumps(manifest)


def test_outside_a_repository_and_without_git_the_record_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert start(tmp_path / "outside")["git_commit"] is None
    monkeypatch.setenv("PATH", "")
    assert start(tmp_path / "without")["git_commit"] is None


def test_uncommitted_changes_are_kept_as_a_patch(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
        return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout

    root = tmp_path / "project"
    root.mkdir()
    git("init", "-q")
    (root / ".gitignore").write_text("runs/\nd.csv\n", encoding="utf-8")
    (root / "code.py").write_text("a = 1\n", encoding="utf-8")
    git("add", "."), git("commit", "-qm", "first")
    clean = start(root)
    assert (clean["git_commit"], clean["git_dirty"]) == (git("rev-parse", "HEAD").strip(), False)
    assert not (root / "runs" / "x" / "source.patch").exists()
    (root / "runs" / "x").rename(root / "runs" / "clean")

    (root / "code.py").write_text("a = 2\n", encoding="utf-8")
    (root / "new.py").write_text("b = 3\n", encoding="utf-8")
    assert start(root)["git_dirty"] is True
    git("stash", "-uq")
    git("apply", str(root / "runs" / "x" / "source.patch"))
    assert (root / "code.py").read_text(encoding="utf-8") == "a = 2\n"
    assert (root / "new.py").read_text(encoding="utf-8") == "b = 3\n"


def test_a_file_that_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{", encoding="utf-8")
    with pytest.raises(record.RunError, match=r"result\.json: expected a JSON object"):
        record.read(tmp_path / "result.json")


def test_a_digest_depends_on_the_names_themselves() -> None:
    weights = torch.ones(2)
    assert record.digest({"a": weights}) != record.digest({"b": weights})


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise OSError

    record.write(tmp_path / "r.json", {"a": 1})
    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(OSError):
        record.write(tmp_path / "r.json", {"a": 2})
    assert record.read(tmp_path / "r.json") == {"a": 1}


def test_a_patch_keeps_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / ".gitignore").write_text("runs/\nd.csv\n", encoding="utf-8")
    old, new = b"a\r\nb\r\n\xff\n", b"a\r\nc\r\n\xfe\n"
    (tmp_path / "code.txt").write_bytes(old)
    git("add", ".")
    git("commit", "-qm", "first")
    (tmp_path / "code.txt").write_bytes(new)
    (tmp_path / "large.bin").write_bytes(bytes(10_000))  # no source, so not kept
    start(tmp_path)
    patch = (tmp_path / "runs" / "x" / "source.patch").read_bytes()
    assert len(patch) < 1000
    git("checkout", "-q", "code.txt")
    git("apply", str(tmp_path / "runs" / "x" / "source.patch"))
    assert (tmp_path / "code.txt").read_bytes() == new


def test_a_folder_without_its_whole_record_is_no_run_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = record.write, [1]

    def killed(path: Path, content: object) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(path, content)

    monkeypatch.setattr(record, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert not (tmp_path / "runs" / "x" / "config.yaml").exists()
