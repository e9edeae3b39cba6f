"""What can go wrong in training that is nobody's wrong argument."""

from smoothing.errors import SmoothingError


class TrainingError(SmoothingError):
    """Training broke down: the loss or the weights are no longer finite.

    Attributes:
        epoch: Epoch in which it happened, from 0.
        step: Step within the epoch, from 0.
        value: The offending value, NaN or infinite.
    """

    def __init__(self, message: str, *, epoch: int, step: int, value: float) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step
        self.value = value
