"""Run as a script by several processes: trains a small network together and writes what came out, one file a process."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from certify.training.launch import joined
from smoothing import Gaussian
from smoothing.training import Batch, EpochDone, NoiseAugmentation, Objective, Trainer, TrainingConfig
from smoothing.training.objective import NOISY_ACCURACY, Model


@dataclass(frozen=True)
class Plain(Objective):
    """Cross-entropy without noise: what several processes compute together is then what one computes alone."""

    name: ClassVar[str] = "plain-together"

    def __call__(
        self, model: Model, batch: Batch, law: Any, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        scores = model(batch.x)
        losses = nn.functional.cross_entropy(scores, batch.y, reduction="none")
        return batch.mean(losses), {NOISY_ACCURACY: (scores.argmax(1) == batch.y).float().mean()}


class Recorder(nn.Module):
    """A linear network that keeps what it is given in train mode."""

    def __init__(self, start: int) -> None:
        super().__init__()
        torch.manual_seed(start)
        self.inner = nn.Linear(16, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x.detach().clone())
        scores: Tensor = self.inner(x.flatten(1))
        return scores


def train(objective: Objective, start: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(50) % 3
    images = torch.rand((50, 1, 4, 4), generator=generator)
    images[torch.arange(50), 0, labels] += 0.8
    model = Recorder(start)
    config = TrainingConfig(epochs=3, batch_size=12, learning_rate=0.1, ema=0.5, clip=1.0, report_seconds=0.0)
    trainer = Trainer(model, Gaussian((1, 4, 4), sigma=0.5), objective, config)
    losses = [event.loss for event in trainer.fit(images, labels) if isinstance(event, EpochDone)]
    return {"state": model.state_dict(), "seen": model.seen, "losses": losses}


def main() -> None:
    import os

    out, kind = Path(sys.argv[1]), sys.argv[2]
    rank = int(os.environ.get("RANK", "0"))
    objective: Objective = Plain() if kind == "plain" else NoiseAugmentation()
    with joined("cpu"):
        # Different first weights in each process: the leading one's are used.
        torch.save(train(objective, start=rank), out / f"{kind}-{rank}.pt")
    # The threads of the group end with it: one that is still at work when the interpreter ends aborts the process.
    tasks = Path("/proc/self/task")
    names = [(task / "comm").read_text() for task in tasks.iterdir()] if tasks.exists() else []
    assert not [name for name in names if "gloo" in name], names


if __name__ == "__main__":
    main()
