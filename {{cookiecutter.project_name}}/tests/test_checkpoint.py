"""A checkpoint is whole or not there, and tells when it is damaged."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from {{ cookiecutter.__package_name }} import checkpoint
from {{ cookiecutter.__package_name }}.checkpoint import CheckpointError, SaveError


def parts() -> dict[str, Any]:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return {"model_state_dict": model, "optimizer_state_dict": optimizer, "classes": ["a", "b"]}


def test_what_is_saved_is_restored_and_plain_pytorch_reads_it(tmp_path: Path) -> None:
    path, saved, fresh = tmp_path / "a" / "last.pt", parts(), parts()
    checkpoint.save(path, saved)
    state = checkpoint.load(path)
    checkpoint.restore(state, fresh)
    for name, value in saved["model_state_dict"].state_dict().items():
        assert torch.equal(fresh["model_state_dict"].state_dict()[name], value)
    moments = saved["optimizer_state_dict"].state_dict()["state"][0]["exp_avg"]
    restored = fresh["optimizer_state_dict"].state_dict()["state"][0]["exp_avg"]
    assert torch.equal(moments, restored)
    assert torch.load(path, weights_only=True)["classes"] == ["a", "b"]
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text"])
def test_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, parts())
    content = bytearray(path.read_bytes())
    weight = checkpoint.load(path)["model_state_dict"]["weight"].numpy().tobytes()
    content[content.index(weight) + 5] ^= 1
    broken = {"empty": b"", "truncated": bytes(content[:-200]), "flipped": bytes(content)}
    path.write_bytes(broken.get(damage, b"hello"))
    with pytest.raises(CheckpointError, match=r"last\.pt: damaged or missing: "):
        checkpoint.load(path)


def test_the_one_before_is_used_when_the_last_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint.load_latest(tmp_path) is None
    for step in (1, 2, 3):
        checkpoint.save(tmp_path / "last.pt", {"step": step}, keep_previous=True)
    assert checkpoint.load_latest(tmp_path) == {"step": 3}
    (tmp_path / "last.pt").write_bytes(b"")
    assert checkpoint.load_latest(tmp_path) == {"step": 2}
    assert "last.pt: damaged or missing" in capsys.readouterr().err
    (tmp_path / "last.prev.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.prev\.pt: damaged or missing"):
        checkpoint.load_latest(tmp_path)


def test_a_failed_save_leaves_the_old_one_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SaveError, match=r"last\.pt: cannot be written: .*No space left"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device on this system")
def test_a_full_disk_is_named_although_pytorch_hides_it(tmp_path: Path) -> None:
    (tmp_path / "last.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(SaveError, match="No space left on device"):
        checkpoint.save(tmp_path / "last.pt", {"weights": torch.zeros(1_000_000)})


def test_another_model_is_refused_with_what_differs(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", parts())
    state = checkpoint.load(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"size mismatch for weight: .*\[2, 3\].*\[2, 4\]"):
        checkpoint.restore(state, {"model_state_dict": torch.nn.Linear(4, 2)})
    with pytest.raises(CheckpointError, match=r"Unexpected key.*bias"):
        checkpoint.restore(state, {"model_state_dict": torch.nn.Linear(3, 2, bias=False)})


def test_a_missing_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"damaged or missing: .*No such file"):
        checkpoint.load(tmp_path / "last.pt")


def test_objects_are_refused_and_so_are_checkpoints_of_something_else(tmp_path: Path) -> None:
    torch.save({"model_state_dict": torch.nn.Linear(1, 1)}, tmp_path / "object.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("object", "list", "empty"):
        with pytest.raises(CheckpointError, match=rf"{name}\.pt: damaged or missing"):
            checkpoint.load(tmp_path / f"{name}.pt")
    with pytest.raises(CheckpointError, match="expected model_state_dict in it"):
        checkpoint.restore({"weights": 1}, parts())


def test_the_one_before_is_kept_only_when_asked_for(tmp_path: Path) -> None:
    for _ in range(2):
        checkpoint.save(tmp_path / "best.pt", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_a_failed_save_fails_the_run() -> None:
    assert SaveError.exit_code == 1
