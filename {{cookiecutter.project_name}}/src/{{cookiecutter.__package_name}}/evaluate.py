"""Evaluate a run on a split, or predict with it; `load` gives its model to a notebook."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import checkpoint, config
from .data import DataError, NgramEncoder
from .metrics import ConfusionMatrix
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
    state = checkpoint.load(folder / "checkpoints" / f"{name}.pt")
    run = Run(config.load(Config, folder / "config.yaml"), root)
    if run.classes != state["classes"]:
        expected = f"the classes of the run, {', '.join(state['classes'])}"
        found = ", ".join(run.classes)
        raise DataError(f"{run.config.data.path}: expected {expected}, found {found}")
    checkpoint.restore(state, {"model_state_dict": run.model})
    run.trainer.metrics["confusion"] = ConfusionMatrix(len(run.classes))
    samples, values = run.loaders[split].size, run.trainer.evaluate(run.loaders[split])
    where = {"split": split, "checkpoint": name, "step": state["trainer"]["step"]}
    return {**where, "samples": samples, "classes": run.classes, **values}


@torch.no_grad()
def predict(folder: Path, texts: Sequence[str], batch_size: int = 256) -> Iterator[dict[str, Any]]:
    model, classes, encode = load(folder)
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        scores = model(torch.stack([encode(text) for text in batch]))  # (batch, classes)
        best = scores.softmax(1).max(1)
        for text, value, index in zip(batch, best.values, best.indices, strict=True):
            probability = round(value.item(), 4)
            yield {"input": text, "class": classes[index], "probability": probability}
