"""What a training tells while it runs; whoever runs it prints, draws or writes it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """Something happened in a training.

    Attributes:
        epoch: Epoch, from 0.
    """

    epoch: int


@dataclass(frozen=True)
class EpochStarted(Event):
    """An epoch begins.

    Attributes:
        epochs: Number of epochs.
        steps: Steps of this epoch.
        images: Examples of this epoch.
    """

    epochs: int
    steps: int
    images: int


@dataclass(frozen=True)
class Measured(Event):
    """Steps were taken; the means are over these steps, while the weights were changing.

    Attributes:
        loss: Mean loss.
        noisy_accuracy: Share of the noisy examples whose label the model returned, in [0, 1].
        images_per_second: Speed of the training alone, without whatever was done between its events.
        learning_rate: Rate of the last step.
        metrics: Means of the loss and of all metrics of the objective.
    """

    loss: float
    noisy_accuracy: float
    images_per_second: float
    learning_rate: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class StepDone(Measured):
    """Some steps are done: those since the event before.

    Attributes:
        step: Steps of this epoch that are done, from 1.
        steps: Steps of this epoch.
        images: Examples of this epoch that are done.
    """

    step: int
    steps: int
    images: int


@dataclass(frozen=True)
class EpochDone(Measured):
    """All steps of an epoch are done.

    Attributes:
        epochs: Number of epochs.
        seconds: Time of the training alone.
    """

    epochs: int
    seconds: float
