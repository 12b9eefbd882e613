"""A run that is run again gets the same bits, or the first difference and its likely cause."""

import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command, assert_same_run, nudge, read_log
from tiny import TinyTask

from {{ cookiecutter.__package_name }} import reproduce as reproduction
from {{ cookiecutter.__package_name }}.engine import checkpoint, record
from {{ cookiecutter.__package_name }}.engine.logger import Logger
from {{ cookiecutter.__package_name }}.engine.trainer import Step, Trainer
from {{ cookiecutter.__package_name }}.reproduce import (
    RunPart,
    differences,
    distance,
    environment_commands,
    first_difference,
    verdict,
)

Train = Callable[..., Path]
BASE = ("trainer.epochs=3", "trainer.log_every=2")


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write no event files: a second one has to wait for another second."""
    monkeypatch.setattr(Logger, "_write_scalars", lambda *_: None)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Compute with one thread: for a model as small as this, more of them take longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reproduce(command: Command, *words: Any, code: int = 0) -> tuple[dict[str, Any], str]:
    """Type the command; get its verdict, and what it shows on stderr."""
    found, out, err = command("reproduce", *map(str, words))
    assert found == code, err
    return json.loads(out or "{}"), err


def rewrite(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    record.write(path, {**record.read(path), **changes})


def test_a_run_is_reproduced_in_a_folder_of_its_own(train: Train, command: Command) -> None:
    run = train(*BASE)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    verdict, err = reproduce(command, run)
    again = Path(verdict["run"])
    assert verdict["identical"] is True
    assert verdict["digest"] == record.read(run / "result.json")["digest"]
    assert err.startswith("surroundings  as before\n")
    assert again != run and again.parent == run.parent
    assert_same_run(run, again)
    assert (again / "metrics.jsonl").read_bytes() != before[run / "metrics.jsonl"]  # its own times
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_was_stopped_and_continued_is_reproduced_too(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyTask, "is_noisy", True)
    run = train(*BASE, "optim.scheduler=plateau", "trainer.save_every=1")
    for file in ("result.json", "checkpoints/last.pt"):
        (run / file).unlink()  # as if it had been killed while it saved
    assert command("train", "--resume", str(run), "trainer.epochs=4")[0] == 0
    verdict, _ = reproduce(command, run)
    assert verdict["identical"] is True
    assert_same_run(run, Path(verdict["run"]))


@pytest.mark.parametrize(
    "option",
    ["trainer.eval_every=3", "optim.ema=0.9", "trainer.keep=3", 'optim.groups={"0.*": 0.1}'],
)
def test_a_run_with_an_option_is_reproduced(train: Train, command: Command, option: str) -> None:
    run = train(*BASE, option)
    verdict, _ = reproduce(command, run)
    assert verdict["identical"] is True
    assert_same_run(run, Path(verdict["run"]))


def test_a_run_that_draws_groups_equally_often_is_reproduced(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyTask, "is_noisy", True)
    monkeypatch.setattr(TinyTask, "is_balanced", True)
    run = train(*BASE)
    assert reproduce(command, run)[0]["identical"] is True
    monkeypatch.setattr(TinyTask, "is_balanced", False)
    assert reproduce(command, run, code=3)[0]["identical"] is False


def test_a_run_that_started_from_another_is_reproduced_from_it(
    train: Train, command: Command
) -> None:
    parent = train(*BASE)
    run = train(*BASE, "--init-from", str(parent))
    (run / "result.json").unlink()
    assert command("train", "--resume", str(run))[0] == 0
    manifest = record.read(run / "manifest.json")
    best = checkpoint.load(parent / "checkpoints" / "best.pt")["model_state_dict"]
    assert manifest["parent_digest"] == record.digest(best)
    assert reproduce(command, run)[0]["identical"] is True
    best_of_parent = parent / "checkpoints" / "best.pt"
    best_of_parent.write_bytes((run / "checkpoints" / "best.pt").read_bytes())
    _, err = reproduce(command, run, code=2)
    assert "parent_digest changed since this run; undo that, or use --force" in err
    best_of_parent.unlink()
    assert "best.pt: damaged or missing" in reproduce(command, run, code=2)[1]


@pytest.mark.parametrize(("step", "first_line"), [(1, 2), (2, 2), (5, 6), (11, 12)])
def test_a_weight_nudged_at_a_step_is_found_at_the_first_line_after_it(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch, step: int, first_line: int
) -> None:
    run = train(*BASE)
    nudge(monkeypatch, step)
    verdict, _ = reproduce(command, run, code=3)
    assert verdict["identical"] is False
    assert verdict["first_step"] == first_line
    assert 0.001 < verdict["weights"] < 1
    losses = [read_log(folder, "test")[0]["loss"] for folder in (run, Path(verdict["run"]))]
    found_losses = verdict["metrics"].get("loss", "{0} -> {0}".format(*losses))  # when it differs
    assert found_losses == "{} -> {}".format(*losses)
    assert verdict["likely_cause"] == "none of these"


def test_a_difference_that_no_line_shows_is_found_by_the_digest(
    train: Train, command: Command
) -> None:
    run = train(*BASE)
    digest = record.read(run / "result.json")["digest"]
    rewrite(run / "result.json", digest="0" * 64)
    verdict, _ = reproduce(command, run, code=3)
    assert (verdict["identical"], verdict["first_step"]) == (False, None)
    assert verdict["digest"] == digest  # that of the new run


@pytest.mark.parametrize("cut", [1, 5])
def test_a_log_with_more_or_fewer_lines_is_another_run(
    train: Train, command: Command, cut: int
) -> None:
    run = train(*BASE)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-cut]), encoding="utf-8")
    assert reproduce(command, run, code=3)[0]["first_step"] == json.loads(lines[-cut])["step"]
    (run / "metrics.jsonl").write_text("".join([*lines, lines[-1]]), encoding="utf-8")
    verdict, _ = reproduce(command, run, code=3)
    assert (verdict["identical"], verdict["first_step"]) == (False, json.loads(lines[-1])["step"])


def test_changed_data_is_refused_until_it_is_as_it_was(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("1\n", encoding="utf-8")
    monkeypatch.setattr(TinyTask, "file", mine)
    run = train(*BASE)
    mine.write_text("2\n", encoding="utf-8")
    shown, error = reproduce(command, run, code=2)[1].splitlines()
    assert shown.startswith("data") and shown.endswith(": mine.csv changed")
    assert error.startswith(f"error: {run}: data changed since this run")
    mine.write_text("1\n", encoding="utf-8")
    assert reproduce(command, run)[0]["identical"] is True


@pytest.mark.parametrize("key", ["data", "source"])
def test_changed_data_or_source_is_refused_unless_it_is_wanted(
    train: Train, command: Command, key: str
) -> None:
    run = train(*BASE)
    rewrite(run / "manifest.json", **{key: "0" * 64})
    _, err = reproduce(command, run, code=2)
    way = "use --source run to run its own code, " if key == "source" else ""
    assert f"error: {run}: {key} changed since this run; {way}undo that, or use --force" in err
    if key == "data":
        assert err.startswith(f"{key:12}  {'0' * 64} -> ")
    assert list(run.parent.iterdir()) == [run]
    assert reproduce(command, run, "--force")[0]["identical"] is True


def test_other_surroundings_are_shown_and_are_the_likely_cause(
    train: Train, command: Command
) -> None:
    run = train(*BASE)
    packages = {**record.read(run / "manifest.json")["packages"], "torch": "1.0", "tqdm": "0"}
    rewrite(run / "manifest.json", packages=packages, platform="another", git_commit="another")
    verdict, err = reproduce(command, run)
    assert verdict["identical"] is True
    shown = dict(line.split(maxsplit=1) for line in err.splitlines()[:3])
    assert set(shown) == {"torch", "tqdm", "platform"}
    assert shown["torch"] == f"1.0 -> {metadata.version('torch')}"
    assert err.count("requirements.txt") == 2  # for pip and for uv
    now = record.read(Path(verdict["run"]) / "manifest.json")
    rewrite(run / "manifest.json", packages=now["packages"])
    assert "requirements.txt" not in reproduce(command, run)[1]
    fewer = {name: now["packages"][name] for name in now["packages"] if name != "tqdm"}
    for change in ({"packages": fewer}, {"packages": now["packages"], "python": "3.0.1"}):
        rewrite(run / "manifest.json", **change)
        assert "requirements.txt" in reproduce(command, run)[1]
    rewrite(run / "manifest.json", python=now["python"])
    rewrite(run / "manifest.json", packages=packages)
    rewrite(run / "result.json", digest="0" * 64)
    assert reproduce(command, run, code=3)[0]["likely_cause"] == "torch"


def test_the_recorded_versions_are_installed_by_pip_or_by_uv() -> None:
    run = Path("my runs/x")
    _, pip, uv = environment_commands(run, "3.12.4", {"torch": "2.9.1"}).splitlines()
    install = "pip install -r 'my runs/x/requirements.txt'"
    assert pip == f"    python3.12 -m venv venv && venv/bin/{install}"
    install = "pip install --python venv -r 'my runs/x/requirements.txt'"
    assert uv == f"or  uv venv --python 3.12.4 venv && uv {install}"
    *_, build = environment_commands(run, "3.12.4", {"torch": "2.9.1+cu130"}).splitlines()
    assert build == "and for torch's cu130 build see https://pytorch.org/get-started/locally"


def test_all_data_is_read_again_if_that_is_asked_for(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(record, "CACHED_BYTES", 1)
    mine = tmp_path / "mine.csv"
    mine.write_text("1\n", encoding="utf-8")
    monkeypatch.setattr(TinyTask, "file", mine)
    run = train(*BASE)
    assert (run.parent / ".fingerprints.json").exists()
    time = mine.stat().st_mtime_ns
    mine.write_text("2\n", encoding="utf-8")
    os.utime(mine, ns=(time, time))
    assert reproduce(command, run)[0]["identical"] is True
    _, err = reproduce(command, run, "--verify-data", code=2)
    assert "mine.csv changed" in err
    mine.write_text("1\n", encoding="utf-8")
    os.utime(mine, ns=(time, time))
    (run / "result.json").unlink()
    code, _, err = command("train", "--resume", str(run))
    assert code == 2  # the change is in the cache now
    assert command("train", "--resume", str(run), "--verify-data")[0] == 0


def test_the_checkpoints_of_two_runs_tell_where_they_part(train: Train, command: Command) -> None:
    run = train(*BASE)
    folder = run / "checkpoints"
    steps = {path.name: checkpoint.load(path)["trainer"]["step"] for path in folder.iterdir()}
    assert (steps["last.pt"], steps["last.prev.pt"]) == (12, 8)
    state = checkpoint.load(folder / "last.pt")
    for name, element in (("3.weight", (1, 2)), ("3.bias", (0,))):
        weight = state["model_state_dict"][name]
        value = weight[element].item()
        weight[element] = -value
        if name == "3.weight":
            expected = {"step": 12, "name": name, "value": f"{-value} -> {value}"}
    torch.save(state, folder / "last.pt")
    rewrite(run / "result.json", digest="0" * 64)
    verdict, _ = reproduce(command, run, code=3)
    assert (verdict["equal_until"], verdict["first_parameter"]) == (8, expected)
    state["trainer"]["step"] = 8
    torch.save(state, folder / "last.prev.pt")
    (folder / "best.pt").unlink()  # which may be of step 8 too
    verdict, _ = reproduce(command, run, code=3)
    assert verdict["first_parameter"]["step"] == 8  # the first of two
    for name in ("last.prev.pt", "best.pt"):
        (folder / name).write_bytes(b"damaged")
    verdict, _ = reproduce(command, run, code=3)
    assert (verdict["equal_until"], verdict["first_parameter"]) == (0, expected)


def disturb(monkeypatch: pytest.MonkeyPatch, at: int, by: Iterator[float]) -> None:
    """Have each run change a weight after this step, by another number each time."""
    update = Trainer.update

    def disturbed(trainer: Trainer, *arguments: Any) -> None:
        update(trainer, *arguments)
        if trainer.step + 1 == at:
            dict(trainer.model.named_parameters())["3.bias"].data[1] += next(by)

    monkeypatch.setattr(Trainer, "update", disturbed)


@pytest.mark.parametrize(("at", "start"), [(1, 0), (3, 0), (9, 8), (11, 8), (12, 8)])
def test_of_code_that_is_not_the_same_twice_the_first_step_is_named(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch, at: int, start: int
) -> None:
    disturb(monkeypatch, at, (0.125 * number for number in itertools.count()))
    run = train(*BASE, "trainer.eval_every=4")
    verdict, err = reproduce(command, run, code=3)
    assert f"making steps {start + 1} to " in err
    assert (verdict["repeats"], verdict["first_step"]) == (False, at)
    found = verdict["first_parameter"]
    assert (found["step"], found["name"]) == (at, "3.bias")
    one, other = map(float, found["value"].split(" -> "))
    assert one - other == pytest.approx(0.125)  # the first time, and then the second


def test_code_that_is_the_same_twice_has_not_caused_the_difference(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(*BASE)
    disturb(monkeypatch, 10, itertools.repeat(0.5))
    verdict, err = reproduce(command, run, code=3)
    assert "making steps 9 to 12 twice, to see whether they differ" in err
    assert verdict["repeats"] is True
    assert (verdict["first_step"], verdict["equal_until"]) == (12, 8)
    assert verdict["first_parameter"]["step"] == 12


def test_what_comes_after_the_last_step_is_not_repeated(train: Train, command: Command) -> None:
    run = train(*BASE)
    rewrite(run / "result.json", digest="0" * 64)
    verdict, _ = reproduce(command, run, code=3)
    assert verdict["equal_until"] == 12
    assert "repeats" not in verdict


def test_no_more_than_a_thousand_steps_are_repeated(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduction, "MOST_REPEATED", 2)
    disturb(monkeypatch, 11, (0.125 * number for number in itertools.count()))
    verdict, err = reproduce(command, train(*BASE), code=3)
    assert "making steps 9 to 10 twice" in err
    assert verdict["repeats"] is True


@pytest.mark.parametrize("start", [0, 4, 8])
def test_a_part_of_a_run_ends_as_often_as_it_is_made_as_the_run_did(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: int
) -> None:
    monkeypatch.setattr(TinyTask, "is_noisy", True)
    parent = train("trainer.epochs=1", "seed=5")
    options = ("optim.scheduler=plateau", "optim.patience=0", "optim.ema=0.9", "trainer.keep=3")
    run = train("--init-from", str(parent), *BASE, *options)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    part = RunPart(run, Path(), start)
    for _ in range(2):
        assert part.train(lambda step: step == 11) == 11
        assert part.train(lambda step: False) == 12
        assert part.digest == record.read(run / "result.json")["digest"]
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ([1.0, 0.0], [1.0, -0.0], "0.0 -> -0.0"),
        ([1.0, 2.0], [1.5, 2.5], "1.0 -> 1.5"),
        ([1.0], [1.0, 2.0], "torch.float32 (1,) -> torch.float32 (2,)"),
        ([1.0], [1], "torch.float32 (1,) -> torch.int64 (1,)"),
        ([1.0], None, "torch.float32 (1,) -> none"),
        (None, 1.0, "none -> torch.float32 ()"),
        (1.0, 1.0, None),
        ([], [], None),
    ],
)
def test_the_first_parameter_that_differs_is_named_with_both_values(
    one: Any, other: Any, found: str | None
) -> None:
    same = {"a": torch.ones(2, 3).t()}
    weights, others = (
        same if values is None else {**same, "b": torch.tensor(values), "c": torch.tensor(number)}
        for number, values in enumerate((one, other))
    )
    expected = {"name": "b", "value": found} if found else None
    if one == other:
        others["c"] = weights["c"]
    assert first_difference(weights, others) == expected


def test_what_a_resume_ran_with_counts_too(train: Train, command: Command) -> None:
    run = train(*BASE)
    (run / "result.json").unlink()
    assert command("train", "--resume", str(run))[0] == 0
    (entry,) = record.read(run / "manifest.json")["resumes"]
    rewrite(run / "manifest.json", resumes=[{**entry, "source": "0" * 64}])
    assert "source changed" in reproduce(command, run, code=2)[1]


def test_it_runs_with_the_threads_of_the_run(train: Train, command: Command) -> None:
    run = train(*BASE)
    torch.set_num_threads(2)
    verdict, err = reproduce(command, run)
    assert verdict["identical"] is True
    assert err.startswith("surroundings  as before\n")
    assert record.read(Path(verdict["run"]) / "manifest.json")["threads"] == 1


def test_a_run_of_several_processes_is_reproduced_in_one(train: Train, command: Command) -> None:
    run = train(*BASE, "trainer.micro_batches=2")
    rewrite(run / "manifest.json", processes=2)
    verdict, err = reproduce(command, run)
    assert verdict["identical"] is True
    assert "processes " not in err.splitlines()[0]


def test_another_number_of_processes_is_refused_with_the_command_to_use(
    train: Train, command: Command
) -> None:
    run = train(*BASE)
    rewrite(run / "manifest.json", processes=3, same_bits=False)
    _, err = reproduce(command, run, code=2)
    package = record.__name__.partition(".")[0]
    assert f"reproduced with: torchrun --nproc-per-node 3 -m {package} reproduce {run}" in err


def test_a_run_that_was_continued_in_another_number_of_processes_is_refused(
    train: Train, command: Command
) -> None:
    run = train(*BASE)
    rewrite(run / "manifest.json", resumes=[{"processes": 2}], same_bits=False)
    _, err = reproduce(command, run, code=2)
    assert f"error: {run}: the number of processes differs: 2 -> 1; " in err
    assert list(run.parent.iterdir()) == [run]


def test_a_run_that_did_not_finish_is_refused(train: Train, command: Command) -> None:
    run = train(*BASE)
    for status in ("stopped", "failed"):
        rewrite(run / "result.json", status=status)
        _, err = reproduce(command, run, code=2)
        assert f"error: {run}: this run is not finished; finish it with train --resume" in err
    (run / "result.json").unlink()
    assert "this run is not finished" in reproduce(command, run, code=2)[1]
    _, err = reproduce(command, run.parent, code=2)
    assert "not the folder of a run: there is no config.yaml in it" in err


def test_a_reproduction_can_be_stopped_and_continued_itself(
    train: Train, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(*BASE)
    train_step = Trainer.train_step

    def signalled(trainer: Trainer, batches: Step) -> None:
        train_step(trainer, batches)
        if trainer.step == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", signalled)
        assert reproduce(command, run, code=143)[0] == {}
    (again,) = set(run.parent.iterdir()) - {run}
    assert command("train", "--resume", str(again))[0] == 0
    assert_same_run(run, again)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("manifest.json", None),
        ("manifest.json", "{}"),
        ("manifest.json", "[1]"),
        ("metrics.jsonl", None),
        ("metrics.jsonl", "{"),
        ("checkpoints/last.pt", None),
        ("checkpoints/last.pt", "x"),
        ("result.json", "nothing"),
    ],
)
def test_a_damaged_run_is_an_error_before_it_runs(
    train: Train, command: Command, file: str, content: str | None
) -> None:
    run = train(*BASE)
    (run / file).unlink()
    if content is not None:
        (run / file).write_text(content, encoding="utf-8")
    _, err = reproduce(command, run, code=2)
    assert f"error: {run / file}:" in err.splitlines()[-1]
    assert list(run.parent.iterdir()) == [run]


def test_two_models_without_a_layer_in_common_can_be_told_apart(
    train: Train, command: Command
) -> None:
    run = train(*BASE)
    state = checkpoint.load(run / "checkpoints" / "last.pt")
    state["model_state_dict"] = {"other": torch.zeros(1)}
    torch.save(state, run / "checkpoints" / "last.pt")
    rewrite(run / "result.json", digest="0" * 64)
    verdict, _ = reproduce(command, run, code=3)
    assert verdict["weights"] is None  # there is nothing to compare


# What may be the cause of a difference, the likeliest first.
LIKELY = ["data", "source", "parent_digest", "device", "gpu", "torch", "threads", "cpu"]
LIKELY += ["variables", "numpy", "platform", "python"]


def test_the_likeliest_cause_of_a_difference_is_named(train: Train) -> None:
    one, other = (train("trainer.max_steps=1", f"seed={seed}") for seed in (1, 2))
    for number, key in enumerate(LIKELY):
        differing = dict.fromkeys(reversed(LIKELY[number:]), "1 -> 2")
        assert verdict(one, other, differing)["likely_cause"] == key
    assert verdict(one, other, {"tqdm": "1 -> 2"})["likely_cause"] == "none of these"


def test_what_decides_the_bits_of_a_run_is_compared_and_nothing_else(train: Train) -> None:
    run = train("trainer.max_steps=1", "trainer.max_grad_norm=1")
    manifest = record.read(run / "manifest.json")
    packages = manifest.pop("packages")
    line = read_log(run, "train")[0] | {"rate": 1.0, "memory": 1.0, "time": 1.0, "f1": 0.5}
    compared = [key for key in manifest if differences(manifest, {**manifest, key: "other"})]
    about_the_call = {"began", "command", "config", "git_commit", "git_dirty"}
    assert set(compared) == set(manifest) - about_the_call
    compared = [key for key in line if differences(line, {**line, key: -1})]
    assert set(compared) == {"epoch", "split", "lr", "loss", "grad_norm", "f1"}
    assert differences({"packages": packages}, {"packages": {**packages, "torch": "0"}}) == {
        "torch": f"{packages['torch']} -> 0"
    }


def test_the_distance_of_two_models_is_the_largest_difference_of_two_weights() -> None:
    half = torch.tensor([60000.0], dtype=torch.float16)
    one = {"a": torch.zeros(4), "b": torch.zeros(0), "c": torch.zeros(2), "d": torch.zeros(1)}
    other = {"a": torch.tensor([0.0, -3, 1, 0]), "b": torch.zeros(0), "c": torch.ones(3) * 9}
    assert distance(one, other) == 3
    assert distance({"a": half}, {"a": -half}) == 120000  # more than half precision holds


def test_a_run_that_took_what_fitted_of_another_is_reproduced(
    train: Train, command: Command, tmp_path: Path
) -> None:
    parent = train(*BASE)
    weights = checkpoint.load(parent / "checkpoints" / "best.pt")["model_state_dict"]
    torch.save({**weights, "3.weight": torch.zeros(5, 8)}, tmp_path / "other.pt")
    run = train(*BASE, "--init-from", str(tmp_path / "other.pt"), "--partial")
    assert reproduce(command, run)[0]["identical"] is True
    for name in ("checkpoints/last.pt", "checkpoints/last.prev.pt", "result.json"):
        (run / name).unlink()  # as if it had been killed before its first checkpoint
    assert command("train", "--resume", str(run))[0] == 0
    manifest = record.read(run / "manifest.json")
    assert manifest["resumes"][0]["parent_digest"] == manifest["parent_digest"]
    assert reproduce(command, run)[0]["identical"] is True
