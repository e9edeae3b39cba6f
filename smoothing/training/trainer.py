"""The trainer: one loop for every objective, which tells what happens by yielding events."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from smoothing.distributions.base import SmoothingDistribution
from smoothing.errors import ClassifierError, InvalidArgumentError
from smoothing.forward import Forward, ForwardSettings
from smoothing.training.averaging import WeightAverage
from smoothing.training.batches import BatchSource, Transform, as_inputs, check_examples, check_extras
from smoothing.training.config import TrainingConfig
from smoothing.training.errors import TrainingError
from smoothing.training.events import EpochDone, EpochStarted, Event, StepDone
from smoothing.training.objective import NOISY_ACCURACY, Batch, Objective
from smoothing.training.optimizers import OPTIMIZERS
from smoothing.training.processes import Processes
from smoothing.training.progress import Progress
from smoothing.training.randomness import GlobalRandomness, seeded_generator
from smoothing.training.schedules import Scheduler, make_scheduler
from smoothing.training.scorer import Scorer


class Trainer:
    """Trains a base classifier for a smoothing law.

    All randomness (order, augmentation, noise, dropout) comes from generators seeded by `config.seed`; the global
    random state is left as it was found. On a CPU the same seed gives the same weights, bit for bit, for the same torch
    release and number of threads; kernels on GPUs may add in another order each time.

    Where `torch.distributed` is set up, this process takes its share of every batch, and all take the same step
    (`smoothing.training.processes`); the figures of its events are then those of its share.

    Args:
        model: From [batch, *shape] in input units to scores [batch, classes], normalisation inside; trained in place,
            from the weights that it has.
        law: The noise that the smoothed classifier will use.
        objective: What is minimised.
        config: Length, optimiser, schedule, seed, arithmetic.
        device: Where to train; the model is moved there. Default: where it is.
        transform: Augmentation of clean batches before the objective adds noise, such as `CropFlip()`.

    Raises:
        InvalidArgumentError: If the model has nothing to train, or the objective means nothing for the law.

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
        objective.check_law(law)
        self.model = model
        self.law = law
        self.objective = objective
        self.config = config
        self.transform = transform
        settings = ForwardSettings(config.batch_size, config.precision, config.channels_last)
        self._forward = Forward(model, settings, device)
        self.device = self._forward.device
        self._scorer = Scorer(model, config.channels_last)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise InvalidArgumentError("the model must have parameters that require a gradient, got none")
        self._processes = Processes.current()
        self._processes.same_weights(model)  # before anything is made from them, such as their average
        self._optimizer = OPTIMIZERS[config.optimizer](self._parameters, config.optimizer_settings())
        self._average = WeightAverage(self._parameters, config.ema)
        self._randomness = GlobalRandomness(self.device, config.seed)
        self._epochs_done = 0

    def fit(
        self,
        images: Float[Tensor, " n *shape"] | UInt8[Tensor, " n *shape"],
        labels: Int[Tensor, " labels"],
        *,
        weights: Float[Tensor, " weights"] | None = None,
        predictions: Float[Tensor, "predictions classes"] | None = None,
    ) -> Iterator[Event]:
        """Train, and yield what happens; the training goes on only as far as its events are asked for.

        An epoch yields `EpochStarted`, some `StepDone`, `EpochDone`. Between events the model may be used and even
        evaluated (within `averaged()`, which gives it the weights that it would end with), as long as its weights are
        left alone. Closing the iterator stops the training; the model's training flags are then as they were before it.
        After `load_state_dict` the training goes on with the first epoch that the state does not include.

        Args:
            images: [n, *shape], uint8 (0..255, divided by 255 batch by batch) or floating (input units).
            labels: [n], class numbers.
            weights: What each example counts, [n], at least 0; default: all the same.
            predictions: Class probabilities of each example, [n, classes], for objectives that need them.

        Returns:
            An iterator of events; arguments are checked at once, training starts with the first event.

        Raises:
            InvalidArgumentError: If images or labels do not fit the law or the model.
            ClassifierError: If the model does not return one score per class.
            TrainingError: From the iterator: if the loss or the weights become NaN or infinite.
        """
        check_examples(images, labels, self.law.shape)
        objective = self.objective
        check_extras(len(images), weights, predictions, needed=objective.needs_prediction, objective=objective.name)
        self._check_scores(images, labels, predictions)
        config = self.config
        source = BatchSource(
            images,
            labels,
            batch_size=config.batch_size,
            device=self.device,
            seed=config.seed,
            transform=self.transform,
            weights=weights,
            predictions=predictions,
            processes=self._processes,
        )
        return self._train(source)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model the weights that it would end with, for a block: the averaged ones where there is an average."""
        with self._average.applied():
            yield

    def state_dict(self) -> dict[str, Any]:
        """Return all that a training needs to go on after the epochs that are done, as tensors, numbers and text.

        Right after an `EpochDone` only; the order of the examples, the augmentation and the noise of an epoch follow from
        the seed, and dropout's generator is part of the state.
        """
        return {
            "epochs": self._epochs_done,
            "model": {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()},
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict(),
            "randomness": self._randomness.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a training of the same model, objective, law and configuration."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average.load_state_dict(state["average"])
        self._randomness.load_state_dict(state["randomness"])
        self._epochs_done = int(state["epochs"])

    def _check_scores(self, images: Tensor, labels: Tensor, predictions: Tensor | None) -> None:
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
        if predictions is not None and predictions.shape[1] != scores.shape[1]:
            raise InvalidArgumentError(
                f"predictions must be over the {scores.shape[1]} classes of the model, got {predictions.shape[1]}"
            )

    def _train(self, source: BatchSource) -> Iterator[Event]:
        config = self.config
        scheduler = make_scheduler(config.schedule, self._optimizer, config.schedule_length(source.steps))
        # The schedule is a function of the step alone: nothing else of it has to be kept.
        scheduler.jump(self._epochs_done * source.steps)
        flags = [(module, module.training) for module in self.model.modules()]
        try:
            for epoch in range(self._epochs_done, config.epochs):
                yield EpochStarted(epoch, config.epochs, source.steps, len(source))
                self.model.train()
                batches = source.epoch(epoch)
                purpose = self._processes.purpose
                generator = seeded_generator(self.device, config.seed, "noise", epoch, *purpose)
                if purpose:  # the state of one process does not tell that of the others
                    self._randomness.restart("global", epoch, *purpose)
                whole, rate = Progress(), 0.0
                while whole.steps < source.steps:
                    with self._randomness.active():
                        part, rate = self._steps(source, batches, generator, scheduler, epoch=epoch, first=whole.steps)
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
                self._processes.average_buffers(self.model)
                self._check_weights(epoch, source.steps - 1)
                self._epochs_done = epoch + 1
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
            self._average.write()
        finally:
            for module, training in flags:
                module.training = training

    def _steps(
        self,
        source: BatchSource,
        batches: Iterator[Batch],
        generator: torch.Generator,
        scheduler: Scheduler,
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
            rate = scheduler.rate
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                loss, metrics = self.objective(self._scorer, batch, self.law, generator)
            self._optimizer.zero_grad(set_to_none=True)
            if self._processes.count > 1:
                loss = loss * source.factor(len(batch.y), first + len(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            self._processes.average_gradients(self._parameters)
            if self.config.clip is not None:
                torch.nn.utils.clip_grad_norm_(self._parameters, self.config.clip)
            self._optimizer.step()
            self._average.update()
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
