"""Evaluate a run on a split, or predict with it; `load` gives its model to a notebook."""

from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import checkpoint, config, data, metrics
from .train import Config, Run, build_model


def load(run: Path | str, name: str = "best") -> tuple[nn.Module, list[str], data.NgramEncoder]:
    """The model of a run in eval mode, its classes, and what turns a text into its input."""
    settings = config.load(Config, Path(run) / "config.yaml")
    state = checkpoint.load(Path(run) / "checkpoints" / f"{name}.pt")
    model = build_model(settings, state["classes"])
    checkpoint.restore(state, {"model_state_dict": model})
    return model.eval(), state["classes"], data.NgramEncoder(settings.data)


def evaluate(folder: Path, split: str, name: str, root: Path) -> dict[str, Any]:
    state = checkpoint.load(folder / "checkpoints" / f"{name}.pt")
    # On whatever device there is: it need not be the one that it was trained on.
    run = Run(config.load(Config, folder / "config.yaml", ["device=auto"]), root)
    checkpoint.restore(state, {"classes": run.classes, "model_state_dict": run.model})
    run.trainer.metrics["confusion"] = metrics.ConfusionMatrix(len(run.classes))
    samples, values = run.loaders[split].size, run.trainer.evaluate(run.loaders[split])
    where = {"split": split, "checkpoint": name, "step": state["trainer"]["step"]}
    values = {k: None if type(v) is float and not isfinite(v) else v for k, v in values.items()}
    return {**where, "samples": samples, "classes": run.classes, **values}


@torch.no_grad()
def predict(folder: Path, texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    model, classes, encode = load(folder)
    for text in texts:
        value, index = model(encode(text)[None]).softmax(1).max(1)  # (1,) each
        yield {"input": text, "class": classes[index], "probability": round(value.item(), 4)}
