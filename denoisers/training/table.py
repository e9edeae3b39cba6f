"""Names on the command line -> denoising objectives. A new objective is one file, one import line and one row here."""

from typing import Any

from denoisers.training.classification import Classification
from denoisers.training.mse import MeanSquaredError
from denoisers.training.objective import DenoisingObjective
from denoisers.training.stability import Stability
from denoisers.training.task import DenoisingTask
from smoothing.errors import InvalidArgumentError

DENOISING_OBJECTIVES: dict[str, type[DenoisingObjective]] = {
    objective.name: objective for objective in (MeanSquaredError, Stability, Classification)
}


def make_denoising_objective(name: str, task: DenoisingTask, **parameters: Any) -> DenoisingObjective:
    """Build the objective that `name` names.

    Raises:
        InvalidArgumentError: If it names none; the message lists them all.
    """
    if name not in DENOISING_OBJECTIVES:
        raise InvalidArgumentError(
            f"objective must be one of {', '.join(DENOISING_OBJECTIVES)}, got objective={name!r}"
        )
    return DENOISING_OBJECTIVES[name](task, **parameters)
