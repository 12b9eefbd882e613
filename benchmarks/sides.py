"""The sides of the comparisons: each trains or evaluates, one round for each line on stdin."""

#     python benchmarks/sides.py NAME PROJECT   # in an empty folder
#
# It prints the seconds of each round and the bytes of memory. The loops are those that a user would
# write by hand; those of libraries are in peers.py.

import importlib
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

BATCH, CLASSES, LR = 64, 10, 1e-3
FOREVER = 1_000_000  # steps of the schedule, and epochs: none of it comes to an end


class Gate:
    """Ends a round: prints its seconds and the memory, and waits for a line to start the next."""

    start = time.perf_counter()

    def __call__(self, seconds: float | None = None) -> None:
        seconds = time.perf_counter() - self.start if seconds is None else seconds
        pages = Path("/proc/self/statm").read_text().split()[1]
        print(seconds, int(pages) * os.sysconf("SC_PAGE_SIZE"), file=sys.__stdout__, flush=True)
        if not sys.stdin.readline():
            sys.exit()
        self.start = time.perf_counter()


gate = Gate()

# The same for every side: data, models, groups of parameters, schedule.

Task = tuple[TensorDataset, nn.Module]


def task(steps: int, *sizes: int) -> Task:
    """Data for an epoch of so many steps, and a perceptron with layers of these sizes."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(steps * BATCH, sizes[0], generator=generator)
    targets = torch.randint(CLASSES, (len(rows),), generator=generator)
    pairs = zip(sizes, (*sizes[1:], CLASSES), strict=True)
    layers = [layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU())]
    return TensorDataset(rows, targets), nn.Sequential(*layers[:-1])


small = partial(task, 1000, 64, 128)
short = partial(task, 200, 64, 128)
large = partial(task, 60, 512, 1024, 1024)
huge = partial(task, 1, 5000, 4900)  # 100 MB of weights
hundred, many = partial(task, 101, 64, 128), partial(task, 10_100, 64, 128)
million = partial(task, 15_625, 64, 128)  # samples


def long() -> Task:
    """The large model, in epochs of 1,000 steps."""
    # So many steps on labels of noise leave units without gradients. Their averages in AdamW become
    # denormal numbers, with which a CPU takes three times as long, on all sides.
    torch.set_flush_denormal(True)
    return task(1000, 512, 1024, 1024)


class Rows(TensorDataset):
    """A dataset that gives a whole batch at once, as the project's own does."""

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        rows = torch.from_numpy(numpy.array(indices))  # 10 us less than torch.tensor(indices)
        # The tuple is a batch: it needs no collation.
        return tuple(tensor.index_select(0, rows) for tensor in self.tensors)


def loader_of(data: TensorDataset, is_tuned: bool) -> DataLoader[Any]:
    """A shuffled one: of samples that are collated, or, tuned, of whole batches."""
    if is_tuned:
        return DataLoader(Rows(*data.tensors), BATCH, shuffle=True, collate_fn=list)
    return DataLoader(data, BATCH, shuffle=True)


def adamw(model: nn.Module, fused: bool | None) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups: Any = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, weight_decay=0.5, fused=fused)


def cosine(optimizer: torch.optim.Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / FOREVER)) / 2)


# By hand.


def tutorial(make: Callable[[], Task] = small, clip: float = 0.0, is_tuned: bool = False) -> None:
    data, model = make()
    loader = loader_of(data, is_tuned)
    optimizer = adamw(model, is_tuned or None)
    scheduler = cosine(optimizer)
    while True:
        gate()
        train(model, loader, optimizer, scheduler, clip)


def floor(clip: float = 0.0) -> None:
    data, model = small()
    optimizer = adamw(model, fused=True)
    scheduler = cosine(optimizer)
    while True:
        gate()
        order = torch.randperm(len(data))
        batches = zip(*(torch.split(tensor[order], BATCH) for tensor in data.tensors), strict=True)
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


def evaluate(model: nn.Module, loader: Any) -> tuple[float, float]:
    # As PyTorch's quickstart does it.
    loss_function, loss, correct = nn.CrossEntropyLoss(), 0.0, 0.0
    model.eval()
    with torch.no_grad():
        for inputs, target in loader:
            output = model(inputs)
            loss += loss_function(output, target).item()
            correct += (output.argmax(1) == target).type(torch.float).sum().item()
    return loss / len(loader), correct / len(loader.dataset)


def tutorial_pass(make: Callable[[], Task]) -> None:
    data, model = make()
    loader = DataLoader(data, BATCH)
    while True:
        gate()
        evaluate(model, loader)


@torch.no_grad()
def bare_pass(make: Callable[[], Task]) -> None:
    data, model = make()
    model.eval()
    while True:
        gate()
        for inputs in torch.split(data.tensors[0], BATCH):
            model(inputs)


def save(make: Callable[[], Task], with_optimizer: bool) -> None:
    data, model = make()
    optimizer = adamw(model, fused=True)
    train(model, [data[:]], optimizer, cosine(optimizer), 0.0)
    parts: dict[str, Any] = {"model_state_dict": model}
    if with_optimizer:
        parts["optimizer_state_dict"] = optimizer
    while True:
        gate()
        with open("last.pt", "wb") as file:
            torch.save({key: part.state_dict() for key, part in parts.items()}, file)
            file.flush()
            os.fsync(file.fileno())


def words(encoded: bool) -> None:
    """An epoch on the project's own data, with its own model, and a pass over val."""
    data = project("data")
    config = project("train").Config()
    task = project("task").Task(config.data, config.model, Path(sys.argv[2]))
    task.learn()
    splits: dict[str, Any] = task.splits
    model = OfBags(task.build_model())

    def encode(samples: list[Any]) -> Any:
        targets = [task.classes.index(sample["Class"]) for sample in samples]
        bags = data.encode([sample["Text"] for sample in samples], config.data)
        return bags, torch.tensor(targets)

    def collate(samples: list[Any]) -> Any:
        bags, targets = zip(*samples, strict=True)
        sizes = torch.tensor([0, *map(len, bags)])
        return (torch.cat(bags), sizes.cumsum(0)), torch.stack(targets)

    options: Any = {"batch_size": BATCH, "collate_fn": encode}
    if encoded:  # beforehand
        options = {"batch_size": BATCH, "collate_fn": collate}
        for name, split in splits.items():
            dataset = data.EncodedDataset(split, config.data, task.classes)
            splits[name] = [dataset[i] for i in range(len(dataset))]
    loader = DataLoader(splits["train"], shuffle=True, **options)
    val = DataLoader(splits["val"], **options)
    optimizer = adamw(model, fused=None)
    scheduler = cosine(optimizer)
    while True:
        gate()
        train(model, loader, optimizer, scheduler, 0.0)
        evaluate(model, val)


class OfBags(nn.Module):
    """A model that gets the numbers and offsets of bags in one argument."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, bags: tuple[Tensor, Tensor]) -> Any:
        return self.model(*bags)


class Images(Dataset[tuple[Tensor, int]]):
    """Pictures of noise, 512 x 512, as files of 64 KB and more; read when they are asked for."""

    def __init__(self, size: int = 128) -> None:
        from PIL import Image

        self.open, draw = Image.open, random.Random(0)
        self.paths = [Path(f"{i}.jpg") for i in range(size)]
        for path in self.paths:
            Image.frombytes("RGB", (512, 512), draw.randbytes(512 * 512 * 3)).save(path)
        assert min(path.stat().st_size for path in self.paths) >= 64_000

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with self.open(self.paths[index]) as image:
            pixels = bytearray(image.convert("RGB").resize((224, 224)).tobytes())
        return torch.frombuffer(pixels, dtype=torch.uint8).view(224, 224, 3), index


def images(workers: int) -> None:
    loader = DataLoader(
        Images(), 32, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        gate()
        for _ in loader:
            pass


# The generated project.


def project(name: str) -> Any:
    (package,) = Path(sys.argv[2]).resolve().glob("src/*/__init__.py")
    if str(package.parents[1]) not in sys.path:
        sys.path.insert(0, str(package.parents[1]))
    return importlib.import_module(f"{package.parent.name}.{name}")


def ours(
    make: Callable[[], Task] | None = small, start: int = 0, every: int = 1, **options: Any
) -> None:
    """A run with everything on; a round is `every` epochs, and the first one begins at `start`."""
    built = build(make, epochs=FOREVER, max_steps=FOREVER, **options)
    built.start(built.manifest())
    track = built.trainer.track

    def tracked(steps: Iterable[Any], epoch: int, *where: int) -> Iterator[Any]:
        if epoch > start and (epoch - start - 1) % every == 0:
            gate()
        return iter(track(steps, epoch, *where))

    built.trainer.track = tracked
    with built.stop:
        built.trainer.fit(built.loaders["train"], built.loaders["val"])


def build(make: Callable[[], Task] | None, deterministic: bool = True, **options: Any) -> Any:
    """A run of the project, on its words or on another task."""
    train = project("train")
    if make:
        train.Task = task_of(make)
    config = train.Config(
        device="cpu", deterministic=deterministic, output_dir=str(Path.cwd() / "runs")
    )
    optim = replace(config.optim, lr=LR)
    options = {"monitor": "accuracy", **options}
    config = replace(config, trainer=replace(config.trainer, **options), optim=optim)
    return train.Run(config, Path(sys.argv[2]).resolve())


def task_of(make: Callable[[], Task]) -> Any:
    """The project's own task, on other data and with another model."""
    own: Any = project("task").Task
    given, model = make()

    class GivenTask(own):  # type: ignore[misc]
        def learn(self) -> None:
            self.classes = [str(number) for number in range(CLASSES)]

        def datasets(self) -> dict[str, Any]:
            val = Rows(*(tensor[:1] for tensor in given.tensors))
            return {"train": Rows(*given.tensors), "val": val, "test": Rows(*given.tensors)}

        def build_model(self) -> nn.Module:
            return model

    return GivenTask


def ours_pass(make: Callable[[], Task]) -> None:
    built = build(make)
    while True:
        gate()
        built.trainer.evaluate(built.loaders["test"])


def ours_save(make: Callable[[], Task], of_run: bool) -> None:
    built, checkpoint = build(make), project("engine.checkpoint")
    built.start(built.manifest())
    built.trainer.fit(built.loaders["train"], built.loaders["val"])
    while True:
        gate()
        if of_run:
            built.trainer.checkpoint("last")
        else:
            checkpoint.save(Path("last.pt"), {"model_state_dict": built.model}, keep_previous=True)


def ours_first_step(make: Callable[[], Task], position: int) -> None:
    """What a resume does once everything is loaded: the first step from a position in the epoch."""
    built = build(make)
    while True:
        gate()
        built.trainer.train_step(next(built.loaders["train"].steps_of_epoch(0, position)))
        built.trainer.pending.clear()


def ours_hundred(make: Callable[[], Task]) -> None:
    """A hundred steps in the middle of an epoch: without its shuffle."""
    built, seconds = build(make), 0.0
    for epoch in range(FOREVER):
        steps = built.loaders["train"].steps_of_epoch(epoch)
        next(steps)
        for _ in range(len(built.loaders["train"]) // 101):
            gate(seconds)
            start = time.perf_counter()
            for step in islice(steps, 100):
                built.trainer.train_step(step)
            seconds = time.perf_counter() - start
            built.trainer.pending.clear()


def ours_images(workers: int) -> None:
    module = project("engine.loader")
    config = module.LoaderConfig(batch_size=32, num_workers=workers)
    loader = module.Loader(Images(), config, seed=0, shuffle=True)
    for epoch in range(FOREVER):
        gate()
        for _ in loader.steps_of_epoch(epoch):
            pass


SIDES: dict[str, Callable[[], None]] = {
    "tutorial": tutorial,
    "tutorial, tuned": partial(tutorial, is_tuned=True),
    "tutorial, clip": partial(tutorial, clip=1.0),
    "tutorial, long": partial(tutorial, long),
    "tutorial, long, tuned": partial(tutorial, long, is_tuned=True),
    "tutorial, large, tuned": partial(tutorial, large, is_tuned=True),
    "tutorial, pass": partial(tutorial_pass, small),
    "floor": floor,
    "floor, clip": partial(floor, clip=1.0),
    "bare pass, large": partial(bare_pass, large),
    "words in collate": partial(words, False),
    "words in tensors": partial(words, True),
    "save": partial(save, huge, False),
    "save with optimizer": partial(save, huge, True),
    **{f"images, {n}": partial(images, n) for n in range(3)},
    "ours": ours,
    "ours, clip": partial(ours, max_grad_norm=1.0),
    "ours, large": partial(ours, large),
    "ours, long": partial(ours, long),
    "ours, pass": partial(ours_pass, small),
    "ours, pass, large": partial(ours_pass, large),
    "ours, words": partial(ours, None),
    "ours, words, free": partial(ours, None, deterministic=False),
    "ours, early": partial(ours, short),
    "ours, late": partial(ours, short, start=500),
    "ours, memory": partial(ours, short, start=5, every=50),
    "ours, save": partial(ours_save, huge, False),
    "ours, save a run": partial(ours_save, huge, True),
    "ours, at 10": partial(ours_first_step, million, 10),
    "ours, at 15,000": partial(ours_first_step, million, 15_000),
    "ours, of 101 steps": partial(ours_hundred, hundred),
    "ours, of 10,100 steps": partial(ours_hundred, many),
    **{f"ours, images, {n}": partial(ours_images, n) for n in range(3)},
}


def run(sides: dict[str, Callable[[], None]]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sides[sys.argv[1]]()


if __name__ == "__main__":
    run(SIDES)
