"""What comes from others, such as a run folder, runs no code, and writes nowhere else."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

PACKAGE = "my_pytorch_project"
QUICK = ("trainer.max_steps=1", "data.buckets=64")


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]


def command(project: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a project with 12 GB of address space."""
    import resource

    most = 12 * 2**30
    return subprocess.run(
        [sys.executable, "-m", PACKAGE, *map(str, words)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": "src", "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
    )


def refused(project: Path, *words: object) -> str:
    """The one line with which a command refuses what it is given."""
    done = command(project, *words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in done.stderr
    return line


@pytest.fixture(scope="module")
def project(bakes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a project of texts, with secrets beside its code."""
    copy = shutil.copytree(bakes["text"], tmp_path_factory.mktemp("secure") / "project")
    (copy / ".env").write_text("TOKEN=hush-hush", encoding="utf-8")
    for name in (".env", "prod.env", "server.key", "server.pem", ".netrc"):
        (copy / "src" / PACKAGE / name).write_text("TOKEN=hush-hush", encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def trained(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, for tests that change nothing in it."""
    folder = tmp_path_factory.mktemp("runs")
    at_start = "import platform, socket\nsocket.gethostname = platform.node = lambda: 'the-host'\n"
    (folder / "sitecustomize.py").write_text(at_start, encoding="utf-8")
    surroundings = {
        "PYTHONPATH": os.pathsep.join(["src", str(folder)]),
        "API_TOKEN": "hush-hush",
        "USER": "the-user",
        "LOGNAME": "the-user",
    }
    words = ["train", f"output_dir={folder}/runs", "trainer.max_steps=1", "data.buckets=64"]
    done = command(project, *words, **surroundings)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return shutil.copytree(trained, tmp_path / "runs" / "theirs")


def test_the_record_holds_no_secret_and_no_name_of_host_or_user(trained: Path) -> None:
    content = b"".join(path.read_bytes() for path in trained.rglob("*") if path.is_file())
    names = "\n".join(str(path.relative_to(trained)) for path in trained.rglob("*"))
    assert list(trained.glob("events.out.tfevents.*"))
    for secret in ("hush-hush", "the-host", "the-user"):
        assert secret.encode() not in content
        assert secret not in names
    manifest = json.loads((trained / "manifest.json").read_text("utf-8"))
    assert not {"USER", "HOME", "PATH", "API_TOKEN"} & set(manifest["variables"])


@pytest.mark.parametrize("way", ["evaluate", "predict", "resume", "init-from"])
def test_a_checkpoint_with_code_in_it_runs_none(
    way: str, project: Path, run: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    for path in run.glob("checkpoints/*.pt"):
        torch.save({"model_state_dict": Code(trace)}, path)
    (run / "result.json").unlink()
    ways = {
        "evaluate": ["evaluate", run],
        "predict": ["predict", run, "good"],
        "resume": ["train", "--resume", run],
        "init-from": ["train", "--init-from", run / "checkpoints" / "best.pt", *QUICK],
    }
    assert ".pt: damaged or missing: " in refused(project, *ways[way])
    assert not trace.exists()


def test_a_plain_pickle_runs_no_code_either(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps(Code(tmp_path / "trace")))
    refused(project, "train", "--init-from", path, *QUICK)
    assert not (tmp_path / "trace").exists()


def test_a_checkpoint_that_would_unpack_to_much_more_is_refused_before_that(
    project: Path, run: Path
) -> None:
    best = run / "checkpoints" / "best.pt"
    with zipfile.ZipFile(best) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(best, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("archive/data/99", bytes(50_000_000))
    assert "it would unpack to more than it is" in refused(project, "evaluate", run)


def test_a_config_with_an_object_in_it_makes_none(project: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "theirs.yaml"
    for text in (
        f"name: !!python/object/apply:os.system ['touch {trace}']",
        f"optim: {{groups: !!python/object/apply:pathlib.Path.touch ['{trace}']}}",
    ):
        path.write_text(text, encoding="utf-8")
        refused(project, "train", path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "checkpoints", "manifest.json.tmp", "checkpoints/last.pt.tmp"]
)
def test_a_run_with_a_link_in_it_is_not_continued(
    name: str, project: Path, run: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    inside = run / name
    if inside.is_dir():
        inside.rename(outside)
    else:
        inside.unlink(missing_ok=True)
        outside.write_text("mine", encoding="utf-8")
    inside.symlink_to(outside)
    (run / "result.json").unlink()
    before = outside.read_bytes() if outside.is_file() else sorted(outside.iterdir())
    assert f"{inside}: a link; " in refused(project, "train", "--resume", run)
    after = outside.read_bytes() if outside.is_file() else sorted(outside.iterdir())
    assert after == before


def test_a_run_is_repeated_beside_it_wherever_its_config_wants_it(
    project: Path, run: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    config = run / "config.yaml"
    lines = config.read_text("utf-8").splitlines(keepends=True)
    lines = [f"output_dir: {elsewhere}\n" if "output_dir" in line else line for line in lines]
    config.write_text("".join(lines), encoding="utf-8")
    done = command(project, "reproduce", run)
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["run"]).parent == run.parent
    assert not elsewhere.exists()


def test_names_of_files_in_a_manifest_lead_nowhere(
    project: Path, run: Path, tmp_path: Path
) -> None:
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    manifest["parent"] = "../../../../../../etc/passwd"
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    shutil.rmtree(run / "checkpoints")
    (run / "result.json").unlink()
    assert "/etc/passwd: damaged or missing: " in refused(project, "train", "--resume", run)
