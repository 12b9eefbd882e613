"""Each leaf works alone; only the commands know the leaves."""

import ast
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from {{ cookiecutter.__package_name }} import __main__ as command_line

SOURCE = Path(command_line.__file__).parent
ROOTS = {"train", "evaluate", "reproduce", "__main__"}
LEAVES = sorted({path.stem for path in SOURCE.glob("*.py")} - ROOTS - {"__init__"})
Alone = Callable[[str], ModuleType]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alone:
    """Copy one module to an empty folder, and import it from there, with no package around it."""

    def load(name: str) -> ModuleType:
        path = Path(shutil.copy(SOURCE / f"{name}.py", tmp_path / f"alone_{name}.py"))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
        return module

    monkeypatch.chdir(tmp_path)
    return load


def siblings(name: str) -> set[str]:
    tree = ast.parse((SOURCE / f"{name}.py").read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            assert not any(name.partition(".")[0] == SOURCE.name for name in names)
    return found


def test_the_imports_are_a_star() -> None:
    for leaf in LEAVES:
        assert siblings(leaf) == set(), f"{leaf}.py: a leaf imports no sibling"
    assert siblings("train") <= set(LEAVES)
    for command in ("evaluate", "reproduce"):
        assert siblings(command) <= {*LEAVES, "train"}
    assert siblings("__main__") <= ROOTS


def test_config_alone(alone: Alone, tmp_path: Path) -> None:
    config = alone("config")
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Mine:\n    lr: float = 1.0  # rate\n",
        encoding="utf-8",
    )
    sys.path.insert(0, str(tmp_path))
    mine = importlib.import_module("mine")
    sys.path.remove(str(tmp_path))
    assert config.load(mine.Mine, None, ["lr=1e-3"]).lr == 0.001
    assert config.dump(mine.Mine(), comments=True).split() == ["lr:", "1.0", "#", "float:", "rate"]


def test_data_model_metrics_and_optim_alone(alone: Alone) -> None:
    data, model, metrics, optim = map(alone, ("data", "model", "metrics", "optim"))
    dataset = data.CustomDataset(["a", "b", "a"], ["x", "y", "x"])
    config = data.DataConfig(batch_size=2, features=16)
    encoded = data.EncodedDataset(dataset, data.NgramEncoder(config), ["x", "y"])
    network = model.Classifier(16, 2, model.ModelConfig(hidden=4, dropout=0.0))
    optimizer = optim.build_optimizer(optim.OptimConfig(), network)
    accuracy = metrics.Accuracy(2)
    for micro_batches, _ in data.Loader(encoded, config).steps():
        for (inputs, target), _ in micro_batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(inputs), target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            accuracy.update(network(inputs), target)
    assert 0 <= accuracy.compute() <= 1


def test_the_trainer_alone_trains_a_linear_layer_on_a_list_of_batches(alone: Alone) -> None:
    trainer = alone("trainer")
    torch.manual_seed(0)
    inputs = torch.randn(40, 5)
    target = (inputs.sum(1) > 0).long()
    batches = list(zip(torch.split(inputs, 8), torch.split(target, 8), strict=True))
    model = nn.Linear(5, 2)
    config = trainer.TrainerConfig(epochs=20, monitor="loss")
    mine = trainer.Trainer(model, torch.optim.Adam(model.parameters(), lr=0.1), config)
    before = mine.evaluate(batches)["loss"]
    mine.fit(batches, batches)
    assert mine.step == 100
    assert mine.evaluate(batches)["loss"] < before / 3


def test_checkpoint_logger_record_and_distributed_alone(alone: Alone, tmp_path: Path) -> None:
    names = ("checkpoint", "logger", "record", "distributed")
    checkpoint, logger, record, distributed = map(alone, names)
    assert distributed.set_up("cpu", deterministic=False) == torch.device("cpu")
    folder = record.create_run(tmp_path / "runs", "alone")
    model, log = nn.Linear(2, 1), logger.Logger()
    log.open(folder)
    log.log({"step": 1, "epoch": 1, "split": "train", "loss": 0.5})
    checkpoint.save(folder / "a.pt", {"model_state_dict": model, "logger": log})
    log.close()
    state = checkpoint.load(folder / "a.pt")
    assert record.digest(state["model_state_dict"]) == record.digest(model.state_dict())
    line = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert state["logger"]["bytes"] == len(line)
    assert json.loads(line)["loss"] == 0.5


def test_no_leaf_is_left_out_above() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [leaf for leaf in LEAVES if f'"{leaf}"' not in text] == []
