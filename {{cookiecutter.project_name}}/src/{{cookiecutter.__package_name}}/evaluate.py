"""Evaluate a run on a split, or predict with it; `load` gives its model to a notebook."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import checkpoint, config
from .data import DataError, NgramEncoder
from .train import Config, Run, build_model


def load(
    run: Path | str, name: str = "best", device: str = "cpu"
) -> tuple[nn.Module, list[str], NgramEncoder]:
    """The model of a run in eval mode, its classes, and what turns a text into its input."""
    settings = config.load(Config, Path(run) / "config.yaml")
    state = checkpoint.load(Path(run) / "checkpoints" / f"{name}.pt")
    model = build_model(settings, state["classes"])
    checkpoint.restore(state, {"model_state_dict": model})
    return model.to(device).eval(), state["classes"], NgramEncoder(settings.data)


def evaluate(folder: Path, split: str, name: str, root: Path) -> dict[str, Any]:
    """The loss and the metrics of a run on a split, as `train` computes them."""
    path = folder / "checkpoints" / f"{name}.pt"
    state = checkpoint.load(path)
    run = Run(config.load(Config, folder / "config.yaml"), root)
    if run.classes != state["classes"]:
        found = f"{', '.join(run.classes)} in the data, {', '.join(state['classes'])} in {path}"
        raise DataError(f"{run.config.data.path}: expected the classes of the run, found {found}")
    checkpoint.restore(state, {"model_state_dict": run.model})
    loader = {"val": run.val, "test": run.test}[split]
    where = {"split": split, "checkpoint": name, "step": state["trainer"]["step"]}
    return {**where, "samples": loader.size, **run.trainer.evaluate(loader)}


@torch.no_grad()
def predict(folder: Path, texts: Sequence[str], batch_size: int = 256) -> Iterator[dict[str, Any]]:
    """The class of each text, and the probability that the model gives it."""
    model, classes, encode = load(folder)
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        scores = model(torch.stack([encode(text) for text in batch]))  # (batch, classes)
        best = scores.softmax(1).max(1)
        for text, value, index in zip(batch, best.values, best.indices, strict=True):
            probability = round(value.item(), 4)
            yield {"input": text, "class": classes[index], "probability": probability}
