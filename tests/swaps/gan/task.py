"""The task: make points like those of the data, with two networks and two optimizers."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .engine.task import TaskDefaults
from .engine.trainer import MicroBatch, Output, Trainer


class Gan(nn.Module):
    """From noise (batch, 2) and true points (batch, 1) to made points and the scores of both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1))
        self.discriminator = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, noise: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = self.generator(noise)
        return made, self.discriminator(made), self.discriminator(points)  # (batch, 1) each


class GanTrainer(Trainer):
    """Trains the discriminator, then the generator, each with an optimizer of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Without DistributedDataParallel, which wants gradients of all weights in each backward.
        self.model = getattr(self.model, "module", self.model)
        self.second = torch.optim.Adam(self.model.get_submodule("discriminator").parameters())

    def update(self, micro_batches: Sequence[MicroBatch], total: int) -> None:
        """Make a step of each optimizer: they leave weights without a gradient alone."""
        for player, optimizer in (("discriminator", self.second), ("generator", self.optimizer)):
            weights = list(self.model.get_submodule(player).parameters())
            self.model.zero_grad()
            for number, micro_batch in zip(self.share.mine, micro_batches, strict=True):
                self.manual_seed(self.seed, self.step, number)
                output = self.forward_batch(micro_batch)
                loss = output.values[player][: micro_batch.size].sum()
                torch.autograd.backward(loss / total, inputs=weights)
                self.pending.append({"loss": loss.detach()})
            for weight in weights:
                weight.grad = self.share.add_up(weight.grad)
            optimizer.param_groups[0]["lr"] = self.lr  # the schedule sets that of the first only
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.second.load_state_dict(state["second"])


class Task(TaskDefaults):
    """Learn to make points."""

    defaults = ("optim.weight_decay=0.0", "trainer.epochs=5", "loader.batch_size=16")
    trainer = GanTrainer

    def datasets(self) -> dict[str, Any]:
        points = torch.tensor([[float(line)] for line in self.path.read_text("utf-8").split()])
        noise = torch.randn(len(points), 2, generator=torch.Generator().manual_seed(0))
        pairs = list(zip(points, noise, strict=True))
        train = [pair for number, pair in enumerate(pairs) if number % 10 < 8]
        return {"train": train, "val": pairs[8::10], "test": pairs[9::10]}

    def build_model(self) -> nn.Module:
        return Gan(self.model.hidden)

    def forward(self, model: nn.Module, batch: Any) -> Output:
        points, noise = batch  # (batch, 1), (batch, 2): in evaluation the noise is always the same
        noise = torch.randn_like(noise) if model.training else noise
        made, made_scores, true_scores = model(noise, points)
        log_sigmoid = nn.functional.logsigmoid
        discriminator = -(log_sigmoid(true_scores) + log_sigmoid(-made_scores)).squeeze(1)
        generator = -log_sigmoid(made_scores).squeeze(1)  # (batch,), like that of the discriminator
        values = {"discriminator": discriminator, "generator": generator}
        return Output(discriminator + generator, made, points, values)

    def example(self) -> str:
        return "1"

    def parse(self, text: str) -> Tensor:
        """The noise (2,); the input is its seed."""
        return torch.randn(2, generator=torch.Generator().manual_seed(int(text)))

    def predict(self, model: nn.Module, samples: list[Any]) -> Iterable[dict[str, Any]]:
        noise = torch.stack(samples).to(next(model.parameters()).device)  # (batch, 2)
        made, _, _ = model(noise, noise[:, :1])
        for point in made.flatten().tolist():
            yield {"point": round(point, 4)}
