"""What the machine asks of a task, with answers for what few tasks need. Works alone.

A task has the methods of `TaskDefaults`, and these:

    datasets(self) -> dict[str, Dataset]     the splits: train and val, and test if there is one
    build_model(self) -> nn.Module           the model, with new weights
    forward(self, model, batch) -> Output    losses, predictions and target of a batch
    example(self) -> str                     an input that `predict` can take
    parse(self, text) -> Any                 turns an input of `predict` into a sample; an error is
                                             a ValueError, and there is no answer for that input
    predict(self, model, samples)            yields an answer, a dict, for each sample, in order
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class DataError(ValueError):
    """The data or an input is wrong: the message, of one line, is all that a user sees of it."""

    exit_code = 2


def one_line(text: str) -> str:
    """The text with an escape for each character that a terminal would not just show."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def relative(path: Path, start: Path | str = ".") -> str:
    """The path from a folder to another, or the whole path to one on another drive of Windows."""
    try:
        return os.path.relpath(path, start)
    except ValueError:
        return os.path.abspath(path)


class TaskDefaults:
    """Makes a task of a class that says only what is special about it.

    Args:
        data: the options of the data.
        model: the options of the model.
        root: the folder that relative paths start from.
    """

    defaults: tuple[str, ...] = ()
    """options whose default is not that of the machine, as `section.key=value`"""
    learnt: tuple[str, ...] = ()
    """names of the attributes that `learn` sets: plain data or tensors, saved in each checkpoint"""
    collate: Any = None
    """a method that makes a batch of a list of samples; None: torch's `default_collate`"""
    units: Any = None
    """a method that says how many units, such as tokens, the loss of a batch counts; None: one for
    each sample"""
    trainer: Any = None
    """a subclass of Trainer, which overrides `update`, say; None: Trainer itself"""
    page: Any = None
    """a method that says what TensorBoard shows at the end of a run, by name: texts in Markdown and
    pictures (3, height, width) of uint8. It gets the name of the test split (val if there is none),
    the indices of up to 1,000 of its samples, and the `Output` of the best weights for them, as one
    batch on the CPU; an error in it is a warning. None: nothing"""
    tracker: Any = None
    """a method that gets the run folder and the options by name, and returns a function that the
    first process calls with each line of the log, a dict: see docs/trackers.md. None: nothing"""

    def __init__(self, data: Any, model: Any, root: Path) -> None:
        self.data = data
        self.model = model
        self.root = root
        self.path: Path = root / getattr(data, "path", "")

    def learn(self) -> None:
        """Learn from the training split what prediction needs.

        Only a new run calls this. All other commands load what the run has learnt.
        """

    def data_files(self) -> list[Path]:
        """The files and folders whose content a run depends on; here `data.path`, if there is one.

        The record of a run holds a fingerprint of them. From 256 MB on, only what is new or has
        changed in size or time is read again at a start. For millions of files, return a file that
        lists them.
        """
        return [self.path] if self.path != self.root else []

    def groups(self, dataset: Any) -> Any:
        """A number for each sample of the training split, its group, such as its class: an epoch
        then draws from all groups equally often. None: it draws each sample once.
        """
        return None

    def summary(self) -> Iterable[str]:
        """Lines that are shown when a run starts: what was found in the data."""
        return []

    def samples(self, text: str) -> Iterable[Any]:
        """The samples that an input of `predict` stands for; for a folder, say, there are many."""
        return [self.parse(text)]

    def parse(self, text: str) -> Any:
        """Turn an input of `predict` into a sample."""
        raise NotImplementedError

    def metrics(self) -> dict[str, Any]:
        """The metrics by name; scalars are logged, all are reported by `evaluate`."""
        return {}

    def report(self) -> dict[str, Any]:
        """What `evaluate` reports beside the metrics."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What was learnt."""
        return {name: getattr(self, name) for name in self.learnt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what an earlier run has learnt."""
        for name in self.learnt:
            setattr(self, name, state[name])
