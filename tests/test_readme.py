"""What the generated README tells to do works, when it is done exactly as it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TASKS, TEMPLATE
from PIL import Image
from safetensors.torch import save_file
from warm import run_python

PACKAGE = "my_pytorch_project"
Blocks = list[tuple[str, str]]  # language and code


@pytest.fixture
def project(default_bake: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(default_bake, tmp_path / "project"))


@pytest.fixture(params=TASKS)
def each_project(request: pytest.FixtureRequest, bakes: dict[str, Path], tmp_path: Path) -> Path:
    """A project of each task."""
    return Path(shutil.copytree(bakes[request.param], tmp_path / "project"))


def section(project: Path, title: str) -> Blocks:
    """The code blocks under a heading."""
    text = (project / "README.md").read_text(encoding="utf-8")
    part = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(\w+)\n(.*?)```", part, re.DOTALL)
    assert blocks, title
    return [(language, code) for language, code in blocks]


def run(project: Path, *words: str, succeeds: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(project / "src")}
    result = run_python("-m", PACKAGE, *words, folder=project, env=environment)
    assert (result.returncode == 0) is succeeds, result.stderr
    return result


def metrics(project: Path, *words: str) -> dict[str, Any]:
    folder = run(project, "train", *words).stdout.strip()
    values: dict[str, Any] = json.loads(run(project, "evaluate", folder).stdout)
    return values


def test_what_it_shows_is_what_is_tested(default_bake: Path) -> None:
    swaps = [path.read_text("utf-8") for path in (TEMPLATE / "tests" / "swaps").glob("*/*.py")]
    for title in ("Change the data", "Change the model and the loss", "Add a metric"):
        for language, code in section(default_bake, title):
            head, _, snippet = code.partition("\n")
            assert language == "python" and head in ("# task.py", "# metrics.py")
            assert any(snippet in text for text in swaps), snippet
            assert snippet.count("\n") <= 12


def test_three_commands_lead_to_a_trained_model(project: Path) -> None:
    (_, commands), *_ = section(project, "From nothing to a trained model")
    *_, install, train = commands.splitlines()
    assert (len(commands.splitlines()), install) == (3, 'pip install -e ".[dev]"')
    values = metrics(project, *train.split()[4:])
    assert values["accuracy"] >= 0.87
    claimed = re.search(
        r"accuracy of (0\.\d+) on words", (TEMPLATE / "README.md").read_text("utf-8")
    )
    assert claimed and abs(values["accuracy"] - float(claimed[1])) < 0.01


def test_every_command_of_the_readme_works(each_project: Path) -> None:
    project = each_project
    folder = run(project, "train", "trainer.epochs=1").stdout.strip()
    blocks = section(project, "From nothing to a trained model")[1:2]
    commands = [line.partition("#")[0].split() for _, code in blocks for line in code.splitlines()]
    ours = [words[3:] for words in commands if words[:3] == ["python", "-m", PACKAGE]]
    assert len(ours) == 8
    for words in ours:
        small = ["trainer.epochs=1"] if words[0] == "train" and "--resume" not in words else []
        run(project, *[word.replace("runs/RUN", folder) for word in words], *small)


def test_new_code_can_be_tried_on_one_batch(each_project: Path) -> None:
    project = each_project
    text = (project / "README.md").read_text(encoding="utf-8")
    (words,) = re.findall(r"^python -m \w+ (.*) +# one batch$", text, re.MULTILINE)
    folder = run(project, *words.split()).stdout.strip()
    log = (project / folder / "metrics.jsonl").read_text("utf-8").splitlines()
    losses = [line["loss"] for line in map(json.loads, log) if line["split"] == "train"]
    (epochs,) = re.findall(r"trainer\.epochs=(\d+)", words)
    assert len(losses) == int(epochs)  # an epoch is a step
    assert losses[0] > 0.3 and losses[-1] < 0.01 * losses[0]


def test_change_the_data_to_another_csv(project: Path) -> None:
    text = (project / "README.md").read_text(encoding="utf-8")
    ((*_, override),) = [found.split() for found in re.findall(r"`(train data\..*?)`", text)]
    kinds = [("fine", "good"), ("dull", "bad")]
    rows = [f"film number {i} is {kinds[i % 2][0]},{kinds[i % 2][1]}" for i in range(300)]
    content = "\n".join(["text,label", *rows])
    (project / "data" / "mine.csv").write_text(content, encoding="utf-8")
    values = metrics(project, override)
    assert values["classes"] == ["bad", "good"]
    assert values["accuracy"] == 1


def test_change_the_data_to_a_folder_of_images(bakes: dict[str, Path], tmp_path: Path) -> None:
    project = Path(shutil.copytree(bakes["image"], tmp_path / "project"))
    for number in range(60):
        name = ("cat", "dog")[number % 2]
        (project / "pets" / name).mkdir(parents=True, exist_ok=True)
        colour = (200, 50, number) if name == "cat" else (50, 200, number)
        Image.new("RGB", (90, 70), colour).save(project / "pets" / name / f"{number}.jpg")
    (_, code), *_ = section(project, "Change the data")
    words = code.split()[3:]
    assert words[0] == "train"
    values = metrics(project, *words[1:], "model.width=4")
    assert values["classes"] == ["cat", "dog"]
    assert values["accuracy"] == 1


def test_change_the_data_to_another_table(bakes: dict[str, Path], tmp_path: Path) -> None:
    project = Path(shutil.copytree(bakes["tabular"], tmp_path / "project"))
    text = (project / "README.md").read_text(encoding="utf-8")
    (words,) = re.findall(r"`train (data\.path=\S+ data\.target=)COLUMN`", text)
    rows = [f"{i % 17};{'ab'[i % 2]};{3 * (i % 17) + 10 * (i % 2) + 0.01 * i}" for i in range(300)]
    content = "\n".join(["size;kind;price", *rows])
    (project / "data" / "mine.csv").write_text(content, encoding="utf-8")
    values = metrics(project, *f"{words}price".split())
    assert values["rmse"] < 5 and values["r2"] > 0.9


def test_a_notebook_predicts_in_three_lines(project: Path) -> None:
    folder = run(project, "train", "trainer.epochs=1").stdout.strip()
    blocks = section(project, "From nothing to a trained model")
    (code,) = [code for language, code in blocks if language == "python"]
    code = code.replace("runs/RUN", folder).replace("list(task.predict", "print(*task.predict")
    environment = {**os.environ, "PYTHONPATH": str(project / "src")}
    result = run_python("-c", code, folder=project, env=environment)
    assert result.returncode == 0, result.stderr
    assert "'input': 'delightful'" in result.stdout


def test_an_option_is_added_and_written_by_one_command(project: Path) -> None:
    ((_, code),) = section(project, "Add an option")
    *words, _, path = code.split()
    model = project / "src" / PACKAGE / "model.py"
    text = model.read_text("utf-8")
    option = '    depth: int = 2\n    """hidden layers"""\n'
    head, dropout, rest = text.partition("    dropout: ")
    model.write_text(head + option + dropout + rest, encoding="utf-8")
    (project / path).write_text(run(project, *words[3:]).stdout, encoding="utf-8")
    assert "depth: 2 " in (project / path).read_text("utf-8")
    tests = ["tests/test_task.py", "-k", "default_config"]
    options = ("-q", "-p", "no:cacheprovider")
    result = run_python("-m", "pytest", *options, *tests, folder=project, env={**os.environ})
    assert result.returncode == 0, result.stdout


def test_one_file_copied_trains_on_any_loader(project: Path, tmp_path: Path) -> None:
    ((_, code),) = section(project, "Copy just one file")
    shutil.copy(project / "src" / PACKAGE / "engine" / "trainer.py", tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "x = torch.randn(64, 3)\ndata = TensorDataset(x, (x[:, 0] > 0).long())\n"
        "train_loader = val_loader = DataLoader(data, batch_size=16)\n"
        "model = torch.nn.Linear(3, 2)\noptimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        + code,
        encoding="utf-8",
    )
    command = [sys.executable, "mine.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("'split': 'val'") == 3


def test_weights_of_safetensors_start_a_run(project: Path) -> None:
    small = ("loader.limit=300", "trainer.epochs=1", "trainer.max_steps=1", "optim.lr=1e-30")
    first = project / run(project, "train", *small, "seed=1").stdout.strip()
    weights = torch.load(first / "checkpoints" / "last.pt", weights_only=True)["model_state_dict"]
    file = project / "weights.safetensors"
    save_file({f"model.{name}": weight for name, weight in weights.items()}, file)
    done = run(project, "train", *small, "--init-from", str(file))
    manifest = json.loads((project / done.stdout.strip() / "manifest.json").read_text("utf-8"))
    assert manifest["parent"] == file.name
    folder = project / done.stdout.strip() / "checkpoints" / "last.pt"
    started = torch.load(folder, weights_only=True)["model_state_dict"]
    for name, weight in weights.items():
        assert torch.allclose(started[name], weight, atol=1e-6), name
