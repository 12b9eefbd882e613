"""A checkpoint is complete or not there, is checked when read, and names what does not fit."""

import errno
import os
import sys
from collections import Counter, OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch

from {{ cookiecutter.__package_name }}.engine import checkpoint
from {{ cookiecutter.__package_name }}.engine.checkpoint import (
    CheckpointError,
    SaveError,
)


def parts() -> dict[str, Any]:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return {"model_state_dict": model, "optimizer_state_dict": optimizer}


def test_what_is_saved_is_restored_and_plain_pytorch_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "last.pt"
    saved = parts()
    fresh = parts()
    checkpoint.save(path, {**saved, "names": ["a", "b"]})
    checkpoint.restore(checkpoint.load(path), fresh)
    for name, value in saved["model_state_dict"].state_dict().items():
        assert torch.equal(fresh["model_state_dict"].state_dict()[name], value)
    moments = saved["optimizer_state_dict"].state_dict()["state"][0]["exp_avg"]
    restored = fresh["optimizer_state_dict"].state_dict()["state"][0]["exp_avg"]
    assert torch.equal(moments, restored)
    assert torch.load(path, weights_only=True)["names"] == ["a", "b"]
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


def test_the_previous_checkpoint_is_used_when_the_last_is_damaged_or_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint.load_latest(tmp_path) is None
    for step in (1, 2, 3):
        checkpoint.save(tmp_path / "last.pt", {"step": step}, keep_previous=True)
    assert checkpoint.load_latest(tmp_path) == {"step": 3}
    assert capsys.readouterr().err == ""
    (tmp_path / "last.pt").write_bytes(b"")
    assert checkpoint.load_latest(tmp_path) == {"step": 2}
    assert "last.pt: damaged or missing" in capsys.readouterr().err
    (tmp_path / "last.pt").unlink()
    assert checkpoint.load_latest(tmp_path) == {"step": 2}
    (tmp_path / "last.prev.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.prev\.pt: damaged or missing"):
        checkpoint.load_latest(tmp_path)


def test_the_previous_checkpoint_is_kept_only_when_asked_for(tmp_path: Path) -> None:
    for _ in range(2):
        checkpoint.save(tmp_path / "best.pt", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.parametrize("fails", ["os.fsync", "os.replace"])
def test_a_failed_save_leaves_the_old_checkpoint_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fails, full)
    with pytest.raises(SaveError, match=r"last\.pt: cannot be written: .*No space left"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device on this system")
def test_a_full_disk_is_named_although_pytorch_hides_it(tmp_path: Path) -> None:
    (tmp_path / "last.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(SaveError, match="No space left on device"):
        checkpoint.save(tmp_path / "last.pt", {"weights": torch.zeros(1_000_000)})


def test_the_first_of_the_errors_of_a_save_is_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hide(*_: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904  # as torch does

    monkeypatch.setattr("torch.save", hide)
    with pytest.raises(SaveError, match=r"last\.pt: cannot be written: .*No space left on device"):
        checkpoint.save(tmp_path / "last.pt", {"a": 1})


def test_a_checkpoint_is_on_the_disk_as_a_whole_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []

    def sync(_: int) -> None:
        assert not (tmp_path / "last.pt").exists()
        synced.append((tmp_path / "last.pt.tmp").read_bytes())

    monkeypatch.setattr("os.fsync", sync)
    checkpoint.save(tmp_path / "last.pt", {"text": "x" * 5000})
    assert synced == [(tmp_path / "last.pt").read_bytes()]


def test_tensors_are_loaded_to_the_cpu_wherever_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path / "last.pt", {"a": torch.ones(1)})
    devices: list[Any] = []
    torch_load = torch.load

    def noted(path: Path, **options: Any) -> Any:
        devices.append(options.get("map_location"))
        return torch_load(path, **options)

    monkeypatch.setattr("torch.load", noted)
    checkpoint.load(tmp_path / "last.pt")
    assert devices == ["cpu"]


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SaveError, match=r"last\.pt: cannot be written: "):
        checkpoint.save(tmp_path / "file" / "last.pt", {"step": 1})


def test_a_file_that_a_scanner_holds_for_a_moment_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    calls: list[Path] = []

    def held_once(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 1:
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(source, target)

    monkeypatch.setattr("os.replace", held_once)
    checkpoint.save(tmp_path / "last.pt", {"step": 1})
    assert len(calls) == 2
    assert checkpoint.load(tmp_path / "last.pt") == {"step": 1}


def test_another_model_is_refused_with_what_differs(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", parts())
    state = checkpoint.load(tmp_path / "a.pt")
    fit = "the checkpoint does not fit this model: model_state_dict: "
    with pytest.raises(CheckpointError, match=rf"{fit}.*weight: .*\[2, 3\].*\[2, 4\]"):
        checkpoint.restore(state, {"model_state_dict": torch.nn.Linear(4, 2)})
    with pytest.raises(CheckpointError, match=rf"{fit}.*Unexpected key.*bias"):
        checkpoint.restore(state, {"model_state_dict": torch.nn.Linear(3, 2, bias=False)})


def test_an_optimizer_with_other_parameter_groups_is_refused_in_one_line() -> None:
    state = {"optimizer_state_dict": parts()["optimizer_state_dict"].state_dict()}
    model = torch.nn.Linear(3, 2)
    groups = [{"params": [parameter]} for parameter in model.parameters()]
    fit = "the checkpoint does not fit this model: optimizer_state_dict: "
    for optimizer in (torch.optim.AdamW(groups), torch.optim.AdamW([model.weight])):
        with pytest.raises(CheckpointError, match=rf"{fit}.*parameter group") as caught:
            checkpoint.restore(state, {"optimizer_state_dict": optimizer})
        assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.pt: damaged or missing: .*No such file"):
        checkpoint.load(tmp_path / "last.pt")


def test_objects_are_refused_and_so_are_checkpoints_of_something_else(tmp_path: Path) -> None:
    torch.save({"model_state_dict": torch.nn.Linear(1, 1)}, tmp_path / "object.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("object", "list", "empty"):
        with pytest.raises(CheckpointError, match=rf"{name}\.pt: damaged or missing"):
            checkpoint.load(tmp_path / f"{name}.pt")
    expected = "not a checkpoint of this project: model_state_dict is missing"
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.restore({"weights": 1}, parts())


class Learnt:
    """Has a state, as a task has what it learnt from the training data."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state


class Text(str):
    """Is a text for isinstance, and refused by torch.load."""


UNREADABLE = [
    (numpy.float64(0.5), "task.mean: expected plain data or a tensor, found numpy.float64"),
    (Path("x"), r"task.mean: expected plain data or a tensor, found pathlib\..*Path"),
    ({"a": [0, {1}]}, "task.mean.a.1: expected plain data or a tensor, found set"),
    ((1, Text("x")), r"task.mean.1: expected plain data or a tensor, found .*\.Text"),
    ({Text("x"): 1}, r"task.mean: key 'x': expected plain data or a tensor, found .*\.Text"),
]


@pytest.mark.parametrize(("value", "message"), UNREADABLE)
def test_what_could_not_be_read_back_is_refused_by_name_before_anything_is_written(
    tmp_path: Path, value: Any, message: str
) -> None:
    bad = {**parts(), "task": Learnt(mean=value)}
    with pytest.raises(CheckpointError, match=message):
        checkpoint.check(bad)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.save(tmp_path / "last.pt", bad)
    assert not list(tmp_path.iterdir())


def test_what_check_accepts_is_read_back_as_it_was(tmp_path: Path) -> None:
    learnt = {
        "nothing": None, "flag": True, "number": -3, "mean": 0.5, "text": "\u00e9\ud800",
        "bytes": b"\0", "list": [1, [2]], "tuple": (1, (2,)), "shape": torch.Size([1, 2]),
        "dtype": torch.bfloat16, "device": torch.device("cpu"), "count": Counter([1, 1]),
        "ordered": OrderedDict(a=1), 7: {(1, 2): "pair"},
    }  # fmt: skip
    good = {"task": Learnt(**{str(key): value for key, value in learnt.items()}), "plain": learnt}
    checkpoint.check(good)
    checkpoint.save(tmp_path / "last.pt", good)
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["plain"] == learnt
    assert type(state["plain"]["ordered"]) is OrderedDict
    checkpoint.check(parts())


def test_a_check_finds_what_only_the_reader_refuses() -> None:
    with pytest.raises(CheckpointError, match="cannot be read back: "):
        checkpoint.check({"number": 1 << 3000})  # torch.load reads integers of up to 255 bytes


def test_a_check_needs_no_room_for_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    save = torch.save

    def measure(state: Any, buffer: Any) -> None:
        save(state, buffer)
        written.append(buffer.tell())

    monkeypatch.setattr(torch, "save", measure)
    checkpoint.check({"model": torch.nn.Linear(1000, 1000)})
    assert written[0] < 10_000


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(3, 2)
        self.head = torch.nn.Linear(2, 4)


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model."])
@pytest.mark.parametrize("place", ["", "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_weights_in_any_place_and_under_any_usual_name_are_loaded(
    tmp_path: Path, prefix: str, place: str, is_zip: bool
) -> None:
    path = tmp_path / "weights.pt"
    source = Small().state_dict()
    state = {f"{prefix}{name}": tensor for name, tensor in source.items()}
    torch.save(
        {place: state, "epoch": 3} if place else state, path, _use_new_zipfile_serialization=is_zip
    )
    model = Small()
    assert checkpoint.fit_weights(model, checkpoint.load_weights(path)) == "loaded 4 of 4 tensors"
    assert all(torch.equal(tensor, source[name]) for name, tensor in model.state_dict().items())


def test_the_average_stands_for_the_weights_of_a_checkpoint() -> None:
    average = {"n_averaged": torch.tensor(3), "module.a": torch.ones(2)}
    state = {"model_state_dict": {"a": torch.zeros(2)}}
    assert torch.equal(checkpoint.weights_of(state)["a"], torch.zeros(2))
    found = checkpoint.weights_of({**state, "average": average})
    assert list(found) == ["a"]
    assert torch.equal(found["a"], torch.ones(2))
    with pytest.raises(CheckpointError, match="model_state_dict is missing"):
        checkpoint.weights_of({})


def test_up_to_six_tensors_that_do_not_fit_are_named() -> None:
    model = torch.nn.Linear(1, 1)
    for count, more in ((6, ""), (7, ", and 1 more")):
        others = {f"old{number}": torch.zeros(1) for number in range(count)}
        report = checkpoint.fit_weights(model, {**model.state_dict(), **others}, partial=True)
        names = ", ".join(f"old{number} (1,)" for number in range(6))
        assert report == f"loaded 2 of 2 tensors; unused: {names}{more}"


def test_weights_that_do_not_fit_are_listed_and_only_partially_loaded_if_that_is_wanted() -> None:
    model = Small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights: dict[str, Any] = {"encoder.weight": torch.zeros(2, 3), "head.weight": torch.zeros(9)}
    weights |= {f"old{number}": torch.zeros(1) for number in range(7)}
    report = (
        "loaded 1 of 4 tensors; new: encoder.bias (2,), head.weight (4, 2), head.bias (4,); "
        "unused: head.weight (9,), old0 (1,), old1 (1,), old2 (1,), old3 (1,), old4 (1,), "
        "and 2 more"
    )
    with pytest.raises(CheckpointError) as caught:
        checkpoint.fit_weights(model, weights)
    assert str(caught.value) == f"the weights do not fit this model: {report}"
    assert torch.equal(model.encoder.weight, before["encoder.weight"])
    assert checkpoint.fit_weights(model, weights, partial=True) == report
    assert torch.equal(model.encoder.weight, torch.zeros(2, 3))
    assert torch.equal(model.head.weight, before["head.weight"])
    with pytest.raises(CheckpointError, match="loaded 0 of 4 tensors"):
        checkpoint.fit_weights(model, {"old": torch.zeros(1)}, partial=True)


@pytest.mark.parametrize("content", [{"epoch": 3}, {"state_dict": {}}, [1, 2]])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"weights\.pt: "):
        checkpoint.load_weights(path)


def test_safetensors_are_read_if_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"damaged")
    module: Any = ModuleType("safetensors.torch")
    module.load_file = lambda file: {"a": torch.ones(2)} if file == path else {}
    monkeypatch.setitem(sys.modules, "safetensors", ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", module)
    assert torch.equal(checkpoint.load_weights(path)["a"], torch.ones(2))

    def fail(_: Path) -> None:
        raise RuntimeError("header too large\nat byte 8")

    module.load_file = fail
    with pytest.raises(CheckpointError, match="damaged or missing: header too large") as caught:
        checkpoint.load_weights(path)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(CheckpointError, match="to read it, install the package safetensors"):
        checkpoint.load_weights(path)


def test_errors_have_the_exit_codes_of_the_command_line() -> None:
    assert SaveError.exit_code == 1
    assert CheckpointError.exit_code == 2


def test_where_there_is_no_folder_there_is_no_checkpoint_yet(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path / "checkpoints") is None
    (tmp_path / "checkpoints").touch()
    with pytest.raises(CheckpointError, match="checkpoints: expected a folder"):
        checkpoint.load_latest(tmp_path / "checkpoints")
