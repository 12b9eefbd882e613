"""The loops of libraries, as their documentation shows them, with logs and checkpoints."""

# A value is logged each 50 steps, for TensorBoard, and a checkpoint is saved each epoch. None of
# them shows a bar.

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from sides import BATCH, FOREVER, adamw, cosine, gate, run, small
from torch import nn
from torch.utils.data import DataLoader

LOG_EVERY = 50


def lightning(fused: bool | None = None) -> None:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger

    data, model = small()

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
            optimizer = adamw(self.model, fused)
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
    trainer.fit(Module(), DataLoader(data, BATCH, shuffle=True))


def accelerate(fused: bool | None = None) -> None:
    from accelerate import Accelerator

    data, model = small()
    optimizer = adamw(model, fused)
    accelerator: Any = Accelerator(cpu=True, log_with="tensorboard", project_dir=".")
    accelerator.init_trackers("run")
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, DataLoader(data, BATCH, shuffle=True), cosine(optimizer)
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


def ignite(fused: bool | None = None) -> None:
    from ignite.engine import Engine, Events, create_supervised_trainer
    from ignite.handlers import ModelCheckpoint, TensorboardLogger

    data, model = small()
    optimizer = adamw(model, fused)
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
    trainer.run(DataLoader(data, BATCH, shuffle=True), max_epochs=FOREVER)


SIDES: dict[str, Callable[[], None]] = {
    "lightning": lightning,
    "lightning, fused": partial(lightning, fused=True),
    "accelerate": accelerate,
    "accelerate, fused": partial(accelerate, fused=True),
    "ignite": ignite,
    "ignite, fused": partial(ignite, fused=True),
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    run(SIDES)
