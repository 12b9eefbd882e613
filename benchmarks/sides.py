"""The sides of the comparisons: each trains or evaluates, one round for each line on stdin."""

#     python benchmarks/sides.py NAME PROJECT   # in an empty folder
#
# It prints the seconds of each round. The loops are those that a user would write by hand, or with
# a library as its documentation shows.

import importlib
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

BATCH, CLASSES, LR, LOG_EVERY = 64, 10, 1e-3, 50
FOREVER = 1_000_000  # steps of the schedule, and epochs: none of it comes to an end


class Gate:
    """Called where a round ends and the next one begins: tells its seconds, waits for a line."""

    start = time.perf_counter()

    def __call__(self) -> None:
        print(time.perf_counter() - self.start, file=sys.__stdout__, flush=True)
        if not sys.stdin.readline():
            sys.exit()
        self.start = time.perf_counter()


gate = Gate()


# The same for every side: data, models, groups of parameters, schedule.


def random_data(steps: int, features: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(steps * BATCH, features, generator=generator)
    return TensorDataset(rows, torch.randint(CLASSES, (len(rows),), generator=generator))


def mlp(*sizes: int) -> nn.Module:
    pairs = zip(sizes, sizes[1:], strict=False)
    layers = [layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def adamw(model: nn.Module, fused: bool | None) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups: Any = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, weight_decay=0.5, fused=fused)


def cosine(optimizer: torch.optim.Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / FOREVER)) / 2)


Task = tuple[Any, Any, nn.Module]  # data to train on and to evaluate on, and the model


def small() -> Task:
    return (data := random_data(1000, 64)), data, mlp(64, 128, CLASSES)


def large() -> Task:
    return (data := random_data(30, 512)), data, mlp(512, 1024, 1024, CLASSES)


# By hand.


def tutorial(
    task: Callable[[], Task] = small, clip: float = 0.0, fused: bool | None = None
) -> None:
    data, _, model = task()
    loader = DataLoader(data, BATCH, shuffle=True)
    optimizer = adamw(model, fused)
    scheduler = cosine(optimizer)
    while True:
        gate()
        train(model, loader, optimizer, scheduler, clip)


def floor(clip: float = 0.0) -> None:
    data, _, model = small()
    optimizer = adamw(model, fused=True)
    scheduler = cosine(optimizer)
    while True:
        gate()
        order = torch.randperm(len(data))
        batches = zip(*(tensor[order].split(BATCH) for tensor in data.tensors), strict=True)
        train(model, batches, optimizer, scheduler, clip)


def train(model: nn.Module, batches: Any, optimizer: Any, scheduler: Any, clip: float) -> None:
    loss_function = nn.CrossEntropyLoss()
    model.train()
    for inputs, target in batches:
        loss = loss_function(model(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        scheduler.step()


def tutorial_pass(task: Callable[[], Task] = small) -> None:
    _, data, model = task()
    loader = DataLoader(data, BATCH)
    while True:
        gate()
        evaluate(model, loader)


def evaluate(model: nn.Module, loader: Any) -> tuple[float, float]:
    loss_function, loss, correct = nn.CrossEntropyLoss(), 0.0, 0.0  # as PyTorch's quickstart
    model.eval()
    with torch.no_grad():
        for inputs, target in loader:
            output = model(inputs)
            loss += loss_function(output, target).item() * len(target)
            correct += (output.argmax(1) == target).sum().item()
    return loss / len(loader.dataset), correct / len(loader.dataset)


def bare_pass() -> None:
    _, data, model = large()
    while True:
        gate()
        model.eval()
        with torch.no_grad():
            for first in range(0, len(data), BATCH):
                model(data.tensors[0][first : first + BATCH])


def words(encoded: bool) -> None:
    """An epoch on the project's own data, with its own model, and a pass over val."""
    data, config = project("data"), project("train").Config()
    splits, classes = data.load_data(Path(sys.argv[2]) / config.data.path)
    encode = data.NgramEncoder(config.data)

    def collate(samples: Any) -> tuple[Tensor, Tensor]:
        targets = [classes.index(sample["Class"]) for sample in samples]
        return torch.stack([encode(sample["Text"]) for sample in samples]), torch.tensor(targets)

    how: Any = {"batch_size": BATCH, "collate_fn": None if encoded else collate}
    if encoded:  # beforehand
        splits = {name: TensorDataset(*collate(list(split))) for name, split in splits.items()}
    loader, val = DataLoader(splits["train"], shuffle=True, **how), DataLoader(splits["val"], **how)
    model = project("model").Classifier(config.data.features, len(classes), config.model)
    optimizer = adamw(model, None)
    scheduler = cosine(optimizer)
    while True:
        gate()
        train(model, loader, optimizer, scheduler, 0.0)
        evaluate(model, val)


# The generated project.


def project(name: str) -> Any:
    (package,) = Path(sys.argv[2]).resolve().glob("src/*/__init__.py")
    sys.path[:1] = [str(package.parents[1])]
    return importlib.import_module(f"{package.parent.name}.{name}")


def ours(task: Callable[[], Task] | None = small, clip: float = 0.0, start: int = 0) -> Any:
    """A run with everything on; `task` stands in for its data and its model, if there is one."""
    run = build(task, clip=clip, epochs=FOREVER, max_steps=FOREVER)
    run.start(run.manifest())
    track = run.trainer.track

    def tracked(steps: Iterable[Any], epoch: int, *where: int) -> Iterable[Any]:
        if epoch > start:
            gate()
        return track(steps, epoch, *where)  # type: ignore[no-any-return]

    run.trainer.track = tracked
    with run.stop:
        run.trainer.fit(run.loaders["train"], run.loaders["val"])


def build(task: Callable[[], Task] | None, **options: Any) -> Any:
    module, data = project("train"), project("data")

    class Rows(TensorDataset):  # as the project's own data sets, of any tensors
        __getitems__ = data.EncodedDataset.__getitems__

    if task:
        training, evaluated, model = task()
        splits = {"train": Rows(*training.tensors), "val": Rows(*(tensor[:1] for tensor in evaluated.tensors))}
        splits["test"] = Rows(*evaluated.tensors)
        module.build_datasets = lambda *_: (splits, [str(i) for i in range(CLASSES)])
        module.build_model = lambda *_: model
    config = module.Config(device="cpu", output_dir=str(Path.cwd()))
    config = replace(config, trainer=replace(config.trainer, **options))
    return module.Run(config, Path(sys.argv[2]).resolve())


def ours_pass(task: Callable[[], Task] = small) -> None:
    run = build(task)
    while True:
        gate()
        run.trainer.evaluate(run.loaders["test"])


SIDES: dict[str, Callable[[], None]] = {
    "tutorial": tutorial,
    "floor": floor,
    "ours": ours,
    "tutorial, clipping": partial(tutorial, clip=1.0),
    "floor, clipping": partial(floor, clip=1.0),
    "ours, clipping": partial(ours, clip=1.0),
    "tutorial, fused": partial(tutorial, fused=True),
    "tutorial, large": partial(tutorial, large),
    "ours, large": partial(ours, large),
    "words, collate": partial(words, False),
    "words, tensors": partial(words, True),
    "words, ours": partial(ours, None),
    "pass, tutorial": tutorial_pass,
    "pass, ours": ours_pass,
    "pass, large": bare_pass,
    "pass, large, ours": partial(ours_pass, large),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    SIDES[sys.argv[1]]()
