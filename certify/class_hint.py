"""What to do about a model that scores another number of classes than it was taken to have."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from certify.run_plan import RunPlan
from certify.runner import make_engine
from smoothing.errors import ClassCountError, ClassifierError
from smoothing.votes import read_outcomes


@contextmanager
def class_hint(stated: int | None, option: int | None) -> Iterator[None]:
    """Add to the error of a model with another number of classes which `--num-classes` would fit.

    Args:
        stated: The number of classes of the loaded model; None where it came from the labels of the data.
        option: What `--num-classes` gave; None where it was not given. Where `stated` came from neither, the model itself
            says so, and no option can help.

    Raises:
        ClassifierError: In place of `ClassCountError`, with the hint.
    """
    try:
        yield
    except ClassCountError as error:
        if (stated is not None and option is None) or error.scored < 2:
            raise
        raise ClassifierError(f"{error}; give --num-classes {error.scored}") from None


def check_class_count(plan: RunPlan) -> None:
    """Ask a model that does not say how many classes it has for one batch of scores, before a folder is claimed.

    The number of classes is part of a run's identity: a folder that was claimed with a wrong one would refuse the right one.

    Raises:
        ClassifierError: If it scores another number of classes than the labels of the data have.
    """
    if plan.model.num_classes is not None or plan.service is not None:
        return
    engine = make_engine(plan)
    batch = engine.forward.new_batch(plan.law.shape).zero_()
    with engine.forward.evaluating(), torch.inference_mode():
        read_outcomes(engine.forward(batch), len(batch), plan.num_classes)
