"""What deterministic algorithms cost: epochs of the default run with and without them, in turn."""

#     python benchmarks/deterministic.py PROJECT

import importlib
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

REPEATS, WARM_UP = 25, 3


def main() -> None:
    (package,) = Path(sys.argv[1]).resolve().glob("src/*/__init__.py")
    sys.path.insert(0, str(package.parents[1]))
    names = ("train", "distributed")
    modules: list[Any] = [
        importlib.import_module(f"{package.parent.name}.{name}") for name in names
    ]
    train, distributed = modules
    run = train.Run(replace(train.Config(), device="cpu"), package.parents[2])
    times: dict[bool, list[float]] = {True: [], False: []}
    for epoch in range(REPEATS + WARM_UP):
        for is_deterministic in times:
            distributed.set_up("cpu", is_deterministic)
            run.trainer.model.train()
            start = time.perf_counter()
            for micro_batches, total in run.loaders["train"].steps(epoch):
                run.trainer.train_step(micro_batches, total)
            times[is_deterministic].append(time.perf_counter() - start)
            run.trainer.losses.clear()
    with_, without = (values[WARM_UP:] for values in times.values())
    ratios = [a / b for a, b in zip(with_, without, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    steps = len(run.loaders["train"])
    print(f"{statistics.median(without) / steps * 1e6:.0f} us a step without,", end=" ")
    print(f"{median:.2f} times that with (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
