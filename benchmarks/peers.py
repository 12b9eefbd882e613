"""The loops of libraries, as their documentation shows them, with logs and checkpoints."""

# A value is logged each 50 steps, for TensorBoard, and a checkpoint is saved each epoch. None of
# them shows a bar.

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from sides import FOREVER, Task, adamw, cosine, gate, large, loader_of, run, small
from torch import nn

LOG_EVERY = 50


def lightning(make: Callable[[], Task] = small, is_tuned: bool = False) -> None:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger

    data, model = make()

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            inputs, target = batch
            loss = nn.functional.cross_entropy(self.model(inputs), target)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = adamw(self.model, is_tuned or None)
            scheduler = {"scheduler": cosine(optimizer), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": scheduler}

    class Rounds(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            gate()

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=FOREVER,
        log_every_n_steps=LOG_EVERY,
        logger=TensorBoardLogger("."),
        callbacks=[Rounds(), ModelCheckpoint()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader_of(data, is_tuned))


def accelerate(make: Callable[[], Task] = small, is_tuned: bool = False) -> None:
    from accelerate import Accelerator

    data, model = make()
    optimizer = adamw(model, is_tuned or None)
    accelerator: Any = Accelerator(cpu=True, log_with="tensorboard", project_dir=".")
    accelerator.init_trackers("run")
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, loader_of(data, is_tuned), cosine(optimizer)
    )
    loss_function, step = nn.CrossEntropyLoss(), 0
    while True:
        gate()
        model.train()
        for inputs, target in loader:
            loss = loss_function(model(inputs), target)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            step += 1
            if step % LOG_EVERY == 0:
                accelerator.log({"loss": loss.item()}, step)
        accelerator.save_state("checkpoint")


def ignite(make: Callable[[], Task] = small, is_tuned: bool = False) -> None:
    from ignite.engine import Engine, Events, create_supervised_trainer
    from ignite.handlers import ModelCheckpoint, TensorboardLogger

    data, model = make()
    optimizer = adamw(model, is_tuned or None)
    scheduler = cosine(optimizer)
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())

    @trainer.on(Events.EPOCH_STARTED)
    def _(_: Engine) -> None:
        gate()

    @trainer.on(Events.ITERATION_COMPLETED)
    def _(_: Engine) -> None:
        scheduler.step()

    board = TensorboardLogger("board")
    often = Events.ITERATION_COMPLETED(every=LOG_EVERY)
    board.attach_output_handler(
        trainer, often, "train", output_transform=lambda loss: {"loss": loss}
    )
    checkpoint = ModelCheckpoint("checkpoint", n_saved=1, require_empty=False)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    trainer.add_event_handler(Events.EPOCH_COMPLETED, checkpoint, parts)
    trainer.run(loader_of(data, is_tuned), max_epochs=FOREVER)


LOOPS = {"lightning": lightning, "accelerate": accelerate, "ignite": ignite}
SIDES: dict[str, Callable[[], None]] = {
    **LOOPS,
    **{f"{name}, tuned": partial(loop, is_tuned=True) for name, loop in LOOPS.items()},
    **{f"{name}, large, tuned": partial(loop, large, True) for name, loop in LOOPS.items()},
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    run(SIDES)
