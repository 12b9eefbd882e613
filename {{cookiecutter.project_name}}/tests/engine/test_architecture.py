"""The machine knows no task, each of its modules works alone, and its lines are easy to read."""

import ast
import importlib.util
import io
import json
import re
import shutil
import sys
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from {{ cookiecutter.__package_name }} import __main__ as command_line

PACKAGE = Path(command_line.__file__).parent
ENGINE = sorted(path.stem for path in (PACKAGE / "engine").glob("*.py"))
ENGINE.remove("__init__")
COMMANDS = ["train", "resume", "evaluate", "reproduce", "runs", "__main__"]
TASK = ["task", "data", "model", "metrics"]
MACHINE = [PACKAGE / f"{name}.py" for name in COMMANDS]
MACHINE += [PACKAGE / "engine" / f"{name}.py" for name in ENGINE]
Alone = Callable[[str], ModuleType]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# Who imports whom.


def imports(tree: ast.AST) -> set[str]:
    """The modules of the project that are imported, those of the engine as `engine.NAME`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            package, _, module = (node.module or "").partition(".")
            if node.level:
                module = node.module or ""
            if node.level or package == PACKAGE.name:
                is_package = module in ("", "engine")
                prefix = f"{module}." if module else ""
                names = [prefix + alias.name for alias in node.names]
                found.update(names if is_package else [module])
        elif isinstance(node, ast.Import):
            words = [alias.name.partition(".") for alias in node.names]
            found.update(module for package, _, module in words if package == PACKAGE.name)
    return found


def test_the_imports_of_a_module_are_recognized() -> None:
    text = f"""
import torch
from torch import nn
from . import task
from .engine import config, record as facts
from .engine.loader import Loader
from {PACKAGE.name}.model import ModelConfig
import {PACKAGE.name}.data
"""
    expected = {"task", "engine.config", "engine.record", "engine.loader", "model", "data"}
    assert imports(ast.parse(text)) == expected


@pytest.mark.parametrize("name", ENGINE)
def test_a_module_of_the_engine_imports_nothing_of_the_project(name: str) -> None:
    assert imports(parse(PACKAGE / "engine" / f"{name}.py")) == set()


@pytest.mark.parametrize(
    ("command", "known"),
    [
        ("train", {"task", "data", "model"}),
        ("resume", {"train"}),
        ("evaluate", {"train", "task"}),
        ("reproduce", {"train"}),
        ("runs", set()),
    ],
)
def test_a_command_imports_the_engine_and_the_files_it_needs(command: str, known: set[str]) -> None:
    found = imports(parse(PACKAGE / f"{command}.py"))
    assert found <= known | {f"engine.{name}" for name in ENGINE}


def test_the_command_line_imports_each_command_only_where_it_is_called() -> None:
    tree = parse(PACKAGE / "__main__.py")
    known = {"train", "resume", "evaluate", "reproduce", "runs"}
    known |= {"engine.config", "engine.record", "engine.task"}
    assert imports(tree) == known
    outside = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    assert imports(ast.Module(outside, [])) == set()


@pytest.mark.parametrize("name", TASK)
def test_the_files_of_the_task_import_no_command(name: str) -> None:
    path = PACKAGE / f"{name}.py"
    if path.exists():  # those beside task.py are there only if the task needs them
        assert imports(parse(path)).isdisjoint(COMMANDS)


# What the machine does not know.

WORDS = (
    r"accurac|\bf1\b|confusion|label|sentiment|n-?gram|\bPositive|\bNegative|[Cc]lassif|"
    r"CustomDataset|MyLinear|class names|\.classes\b|\bwords\.csv"
)


@pytest.mark.parametrize("path", MACHINE, ids=lambda path: path.stem)
def test_the_machine_has_no_word_of_what_is_learnt(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.search(WORDS, line)] == []


# Each module of the engine, used alone.


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alone:
    """Copy one module to an empty folder, and import it from there, with no package around it."""

    def load(name: str) -> ModuleType:
        folder = tmp_path / f"only_{name}"
        folder.mkdir()
        path = Path(shutil.copy(PACKAGE / "engine" / f"{name}.py", folder / f"alone_{name}.py"))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
        return module

    monkeypatch.chdir(tmp_path)
    return load


MINE = '''
from dataclasses import dataclass

@dataclass(frozen=True)
class Mine:
    lr: float = 1.0
    """learning rate"""
'''


@dataclass(frozen=True)
class Data:
    path: str


def points() -> TensorDataset:
    """40 points in two classes."""
    inputs = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


def test_config_alone(alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = alone("config")
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = importlib.import_module("mine")
    monkeypatch.delitem(sys.modules, "mine")
    monkeypatch.setitem(sys.modules, "mine", mine)
    loaded = config.load(mine.Mine(), None, ["lr=1e-3"])
    assert loaded == mine.Mine(lr=0.001)
    words = config.dump(mine.Mine(), comments=True).split()
    assert words == ["lr:", "1.0", "#", "float:", "learning", "rate"]


def test_loader_alone(alone: Alone) -> None:
    loader = alone("loader")
    mine = loader.Loader(points(), loader.LoaderConfig(batch_size=16), shuffle=True)
    steps = list(mine.steps_of_epoch(epoch=0))
    assert [step.size for step in steps] == [16, 16, 8]
    (micro_batch,) = steps[0].micro_batches
    inputs, target = micro_batch.batch
    assert (inputs.shape, target.shape) == ((16, 5), (16,))


def test_the_trainer_alone_trains_on_batches_of_any_kind(alone: Alone) -> None:
    trainer = alone("trainer")

    def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> Any:
        preds = model(batch["inputs"])
        losses = nn.functional.cross_entropy(preds, batch["target"], reduction="none")
        return trainer.Output(losses, preds, batch["target"])

    batches = [
        {"inputs": inputs, "target": target}
        for inputs, target in torch.utils.data.DataLoader(points(), batch_size=8)
    ]
    torch.manual_seed(0)
    model = nn.Linear(5, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    mine = trainer.Trainer(model, optimizer, forward, trainer.TrainerConfig(epochs=20))
    before = mine.evaluate(batches)["loss"]
    mine.fit(batches, batches)
    assert mine.step == 100
    assert mine.evaluate(batches)["loss"] < before / 3
    assert mine.best["metric"] == "loss"


def test_measure_and_task_alone(alone: Alone, tmp_path: Path) -> None:
    measure = alone("measure")
    assert measure.MetricGroup({}, torch.device("cpu")).mode("loss") == "min"
    task = alone("task").TaskDefaults(Data(path="d.csv"), None, tmp_path)
    assert task.data_files() == [tmp_path / "d.csv"]
    assert task.state_dict() == task.metrics() == task.report() == {}


def test_table_alone(alone: Alone, tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("name,age\nAnn,41\n", encoding="utf-8")
    lines, columns = alone("table").read_table(path, ["age"])
    assert (lines, columns) == ([2], {"name": ["Ann"], "age": ["41"]})


def test_split_alone(alone: Alone) -> None:
    split = alone("split")
    keys = ["happy", "sad", "word 6"]
    assert split.assign(keys) == ["test", "train", "val"]
    assert split.split_columns({"text": keys}, keys)["val"] == {"text": ["word 6"]}


def test_optim_alone(alone: Alone) -> None:
    optim = alone("optim")
    model = nn.Linear(5, 2)
    config = optim.OptimConfig(lr=0.5, scheduler="linear")
    optimizer = optim.build_optimizer(config, model)
    scheduler = optim.build_scheduler(config, optimizer, 2, "min")
    model(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25)


def test_checkpoint_alone(alone: Alone, tmp_path: Path) -> None:
    checkpoint = alone("checkpoint")
    model = nn.Linear(2, 1)
    parts = {"model_state_dict": model, "names": ["a", "b"]}
    checkpoint.check(parts)
    checkpoint.save(tmp_path / "last.pt", parts)
    other = nn.Linear(2, 1)
    checkpoint.restore(checkpoint.load(tmp_path / "last.pt"), {"model_state_dict": other})
    assert torch.equal(model.weight, other.weight)


def test_logger_alone(alone: Alone, tmp_path: Path) -> None:
    logger = alone("logger")
    mine = logger.Logger()
    mine.open(tmp_path)
    assert list(mine.track([1, 2], 1, 0, 2)) == [1, 2]
    mine.log({"step": 1, "epoch": 1, "split": "train", "loss": 0.5})
    line = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert mine.state_dict()["bytes"] == len(line)
    assert json.loads(line)["loss"] == 0.5
    mine.close()


def test_trace_alone(alone: Alone, tmp_path: Path) -> None:
    trace = alone("trace")
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with trace.tracing(tmp_path / "trace.jsonl", model, optimizer, SimpleNamespace(step=0)):
        optimizer.step()
    assert trace.compare(tmp_path / "trace.jsonl", tmp_path / "trace.jsonl") is None


def test_figures_alone(alone: Alone) -> None:
    figures = alone("figures")
    picture = figures.scatter(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.5]), "price")
    assert picture.shape[0] == 3
    assert figures.matrix(torch.eye(2), ["no", "yes"]).dtype == torch.uint8


def test_record_alone(alone: Alone, tmp_path: Path) -> None:
    record = alone("record")
    folder = record.create_run(tmp_path / "runs", "alone")
    hashes = record.hash_files(folder)
    facts = record.collect_environment(tmp_path, folder, hashes, torch.device("cpu"))
    record.start(folder, "lr: 0.1\n", facts, tmp_path, hashes)
    assert record.read(folder / "manifest.json")["data"] == facts["data"]
    assert len(record.digest(nn.Linear(2, 1).state_dict())) == 64


def test_distributed_and_sharding_alone(alone: Alone) -> None:
    distributed = alone("distributed")
    sharding = alone("sharding")
    assert distributed.init_process_group() == 0
    assert distributed.select_device("cpu", deterministic=False) == torch.device("cpu")
    model = nn.Linear(2, 1)
    sharding.shard_model(model)
    sharding.shard_optimizer(torch.optim.SGD(model.parameters()))
    assert distributed.world_size() == 1
    with distributed.StopSignal() as _, distributed.StopSignal():
        pass


def test_share_alone(alone: Alone) -> None:
    model = nn.Linear(2, 1)
    share = alone("share").Share(model, micro_batches=4)
    for number in share.mine:
        with share.turn(number, size=3):
            share.model(torch.ones(3, 2)).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[12.0, 12.0]]


def test_each_module_of_the_engine_is_used_above() -> None:
    used = set(re.findall(r'alone\("(\w+)"\)', Path(__file__).read_text(encoding="utf-8")))
    assert used == set(ENGINE)


# How the machine is written. Docstrings, comments, imports and blank lines count nowhere below.

COUNTED = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.Match)
LITERALS = (ast.Dict, ast.List, ast.Tuple, ast.Set, ast.Constant)


def tokens_per_line(text: str) -> Counter[int]:
    """The number of names, operators, numbers and strings in each line of code."""
    counts: Counter[int] = Counter()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in COUNTED:
            counts[token.start[0]] += 1
    for node in ast.walk(ast.parse(text)):
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        if is_import or is_docstring(node):
            for line in lines_of(node):
                del counts[line]
    return counts


def is_docstring(node: ast.AST) -> bool:
    """Whether the node is a text that stands for itself, as those below a field do."""
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)  # type: ignore[attr-defined]


def lines_of(node: ast.AST) -> range:
    return range(node.lineno, node.end_lineno + 1)  # type: ignore[attr-defined]


def lines_of_literals_and_signatures(tree: ast.AST) -> set[int]:
    """The lines on which many tokens are no sin."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found |= set(range(node.lineno, node.body[0].lineno))
        elif isinstance(node, LITERALS):
            found |= set(lines_of(node)) if len(lines_of(node)) > 1 else set()
    return found


def nesting(node: ast.AST) -> int:
    """How deep blocks are nested below a node; an elif nests no deeper than its if."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        is_block = isinstance(child, BLOCKS) and not is_elif
        deepest = max(deepest, nesting(child) + is_block)
    return deepest


def packs_unrelated_values(node: ast.AST) -> bool:
    """Whether the node is an assignment such as `a, b = x, y`; a swap is none."""
    if not isinstance(node, ast.Assign):
        return False
    target = node.targets[0]
    if not isinstance(target, ast.Tuple) or not isinstance(node.value, ast.Tuple):
        return False
    names = {ast.unparse(name) for name in target.elts}
    return names.isdisjoint(ast.unparse(value) for value in node.value.elts)


def has_nested_conditional(node: ast.AST) -> bool:
    """Whether the node is a conditional expression inside of which is another."""
    inner = [child for child in ast.walk(node) if child is not node]
    return isinstance(node, ast.IfExp) and any(isinstance(child, ast.IfExp) for child in inner)


def public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The public classes and functions of a module, and the public methods of these classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield inner


def test_the_lines_of_the_machine_are_not_dense() -> None:
    counts: list[int] = []
    for path in MACHINE:
        text = path.read_text(encoding="utf-8")
        lines = tokens_per_line(text)
        counts += lines.values()
        free = lines_of_literals_and_signatures(ast.parse(text))
        dense = [line for line, count in lines.items() if count >= 30 and line not in free]
        assert dense == [], path
    assert sum(counts) / len(counts) <= 10.5
    assert sum(count >= 20 for count in counts) / len(counts) <= 0.08


@pytest.mark.parametrize("path", MACHINE, ids=lambda path: path.stem)
def test_each_line_of_the_machine_has_one_idea(path: Path) -> None:
    for node in ast.walk(parse(path)):
        assert not packs_unrelated_values(node), f"{path}:{lines_of(node).start}"
        assert not has_nested_conditional(node), f"{path}:{lines_of(node).start}"


@pytest.mark.parametrize("path", MACHINE, ids=lambda path: path.stem)
def test_the_functions_of_the_machine_are_short_and_flat(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef):
            assert len(lines_of(node)) <= 40, f"{path}:{node.lineno}: {node.name}"
            assert nesting(node) <= 3, f"{path}:{node.lineno}: {node.name}"


@pytest.mark.parametrize("path", MACHINE, ids=lambda path: path.stem)
def test_each_public_part_of_the_machine_has_a_docstring(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree)
    assert [node.name for node in public(tree) if not ast.get_docstring(node)] == []
