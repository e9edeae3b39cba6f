"""The trainer: one loop for every objective, which tells what happens by yielding events."""

import math
import time
from collections.abc import Iterator
from typing import NoReturn

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import ClassifierError, InvalidArgumentError
from smoothing.forward import Forward, ForwardSettings
from smoothing.training.batches import BatchSource, Transform, as_inputs, check_examples
from smoothing.training.config import TrainingConfig
from smoothing.training.errors import TrainingError
from smoothing.training.events import EpochDone, EpochStarted, Event, StepDone
from smoothing.training.objective import NOISY_ACCURACY, Batch, Objective
from smoothing.training.optimizers import OPTIMIZERS
from smoothing.training.progress import Progress
from smoothing.training.randomness import GlobalRandomness, seeded_generator
from smoothing.training.schedules import make_scheduler


class Trainer:
    """Trains a base classifier for a smoothing law.

    All randomness (order, augmentation, noise, dropout) comes from generators seeded by `config.seed`; the global
    random state is left as it was found. On a CPU the same seed gives the same weights, bit for bit, for the same torch
    release and number of threads; kernels on GPUs may add in another order each time.

    Args:
        model: From [batch, *shape] in input units to scores [batch, classes], normalisation inside; trained in place,
            from the weights that it has.
        law: The noise that the smoothed classifier will use.
        objective: What is minimised.
        config: Length, optimiser, schedule, seed, arithmetic.
        device: Where to train; the model is moved there. Default: where it is.
        transform: Augmentation of clean batches before the objective adds noise, such as `CropFlip()`.

    Raises:
        InvalidArgumentError: If the model has nothing to train.

    Example:
        >>> from smoothing import Gaussian
        >>> from smoothing.training import NoiseAugmentation, Trainer, TrainingConfig
        >>> images, labels = torch.eye(4).repeat(8, 1), torch.arange(4).repeat(8)
        >>> model = nn.Sequential(nn.Linear(4, 4))
        >>> trainer = Trainer(model, Gaussian((4,), sigma=0.1), NoiseAugmentation(), TrainingConfig(epochs=3))
        >>> [type(event).__name__ for event in trainer.fit(images, labels)][-1]
        'EpochDone'
    """

    def __init__(
        self,
        model: nn.Module,
        law: SmoothingDistribution,
        objective: Objective,
        config: TrainingConfig,
        device: torch.device | str | None = None,
        *,
        transform: Transform | None = None,
    ) -> None:
        self.model = model
        self.law = law
        self.objective = objective
        self.config = config
        self.transform = transform
        settings = ForwardSettings(config.batch_size, config.precision, config.channels_last)
        self._forward = Forward(model, settings, device)
        self.device = self._forward.device
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise InvalidArgumentError("the model must have parameters that require a gradient, got none")

    def fit(
        self,
        images: Float[Tensor, " n *shape"] | UInt8[Tensor, " n *shape"],
        labels: Int[Tensor, " labels"],
    ) -> Iterator[Event]:
        """Train, and yield what happens; the training goes on only as far as its events are asked for.

        An epoch yields `EpochStarted`, some `StepDone`, `EpochDone`. Between events the model may be used and even
        evaluated, as long as its weights are left alone. Closing the iterator stops the training; the model's training
        flags are then as they were before it.

        Args:
            images: [n, *shape], uint8 (0..255, divided by 255 batch by batch) or floating (input units).
            labels: [n], class numbers.

        Returns:
            An iterator of events; arguments are checked at once, training starts with the first event.

        Raises:
            InvalidArgumentError: If images or labels do not fit the law or the model.
            ClassifierError: If the model does not return one score per class.
            TrainingError: From the iterator: if the loss or the weights become NaN or infinite.
        """
        check_examples(images, labels, self.law.shape)
        self._check_scores(images, labels)
        config = self.config
        source = BatchSource(
            images,
            labels,
            batch_size=config.batch_size,
            device=self.device,
            seed=config.seed,
            transform=self.transform,
        )
        return self._train(source)

    def _check_scores(self, images: Tensor, labels: Tensor) -> None:
        # On a GPU a label beyond the scores kills the process's CUDA context; one forward pass finds it here.
        rows = len(images[:2])
        with self._forward.evaluating(), torch.no_grad():
            scores = self._forward(as_inputs(images[:2], self.device))
        if not isinstance(scores, Tensor) or not scores.is_floating_point() or scores.dim() != 2 or len(scores) != rows:
            shape = f"{scores.dtype} {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise ClassifierError(
                f"a model in training must return scores [batch, classes], got {shape} for {rows} rows"
            )
        if int(labels.max()) >= scores.shape[1]:
            raise InvalidArgumentError(
                f"labels must be in 0..{scores.shape[1] - 1}, the classes of the model, got {int(labels.max())}"
            )

    def _train(self, source: BatchSource) -> Iterator[Event]:
        config = self.config
        optimizer = OPTIMIZERS[config.optimizer](self._parameters, config.optimizer_settings())
        scheduler = make_scheduler(config.schedule, optimizer, config.schedule_length(source.steps))
        randomness = GlobalRandomness(self.device, config.seed)
        flags = [(module, module.training) for module in self.model.modules()]
        try:
            for epoch in range(config.epochs):
                yield EpochStarted(epoch, config.epochs, source.steps, len(source))
                self.model.train()
                batches = source.epoch(epoch)
                generator = seeded_generator(self.device, config.seed, "noise", epoch)
                whole, rate = Progress(), 0.0
                while whole.steps < source.steps:
                    with randomness.active():
                        part, rate = self._steps(
                            batches, generator, optimizer, scheduler, epoch=epoch, first=whole.steps
                        )
                    whole += part
                    yield StepDone(
                        epoch,
                        part.means["loss"],
                        part.means[NOISY_ACCURACY],
                        part.images_per_second,
                        rate,
                        part.means,
                        whole.steps,
                        source.steps,
                        whole.images,
                    )
                self._check_weights(epoch, source.steps - 1)
                yield EpochDone(
                    epoch,
                    whole.means["loss"],
                    whole.means[NOISY_ACCURACY],
                    whole.images_per_second,
                    rate,
                    whole.means,
                    config.epochs,
                    whole.seconds,
                )
        finally:
            for module, training in flags:
                module.training = training

    def _steps(
        self,
        batches: Iterator[Batch],
        generator: torch.Generator,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        *,
        epoch: int,
        first: int,
    ) -> tuple[Progress, float]:
        """Take steps until it is time for an event; return what they amounted to and the last learning rate.

        What is to be reported stays on the device until then: a step never makes the host wait for a GPU.
        """
        started = time.perf_counter()
        names: tuple[str, ...] = ()
        rows: list[Tensor] = []
        sizes: list[int] = []
        rate = 0.0
        for batch in batches:
            rate = optimizer.param_groups[0]["lr"]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                loss, metrics = self.objective(self._scores, batch, self.law, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
            names = ("loss", *metrics)
            rows.append(torch.stack([loss.detach(), *metrics.values()]))
            sizes.append(len(batch.y))
            if time.perf_counter() - started >= self.config.report_seconds:
                break
        values = torch.stack(rows).double().tolist()
        for step, (loss_value, *_) in enumerate(values, first):
            if not math.isfinite(loss_value):
                self._give_up("the loss", epoch, step, loss_value)
        return Progress.of(names, values, sizes, time.perf_counter() - started), rate

    def _scores(self, x: Tensor) -> Tensor:
        if self.config.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        scores: Tensor = self.model(x)
        return scores

    def _check_weights(self, epoch: int, step: int) -> None:
        # The loss speaks about the weights before a step: the last step of an epoch is seen only here.
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            bad = tensor.detach()[~tensor.detach().isfinite()]
            if len(bad):
                self._give_up("a weight", epoch, step, float(bad[0]))

    def _give_up(self, what: str, epoch: int, step: int, value: float) -> NoReturn:
        raise TrainingError(
            f"training diverged: {what} became {value} in epoch {epoch + 1} of {self.config.epochs}, step {step + 1}; "
            f"lower the learning rate (now {self.config.learning_rate:g} at most) or check the inputs",
            epoch=epoch,
            step=step,
            value=value,
        )
