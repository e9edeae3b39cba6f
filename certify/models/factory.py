"""Classifiers from the user's own code: `package.module:factory`."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from certify.errors import ModelError, UsageError
from certify.models.base import LoadedModel, describe, did_you_mean, reason
from certify.models.digest import reached_digest, source_texts
from certify.models.reachable import look_into


def load_factory(
    spec: str, *, num_classes: int | None = None, input_shape: tuple[int, ...] | None = None
) -> LoadedModel:
    """Import the module, call the factory without arguments, and take what it returns as the classifier.

    The current directory is importable, as under `python -m`. What the classifier knows of itself is read from optional
    attributes: `num_classes`, `input_shape`, `class_names`, and `version`, a text (or a method that returns one) that
    has to change whenever its answers may. The digest covers the sources and all that can be reached from the callable
    (see `look_into`); the version matters where weights lie beyond that, in another process or a compiled library.

    Args:
        spec: "package.module:factory".
        num_classes: Used where the classifier does not say.
        input_shape: Used where the classifier does not say.

    Raises:
        UsageError: If the module cannot be imported, lacks the attribute, the attribute is not a function, or it does
            not return a callable.
        ModelError: If the factory itself fails.
    """
    factory, module_name = _find(spec)
    try:
        classifier = factory()
    except Exception as error:
        raise ModelError(f"{spec} failed when it was called: {reason(error)}") from error
    if not callable(classifier):
        raise UsageError(f"{spec} must return a classifier that can be called, got {type(classifier).__name__}")
    own_classes, own_shape, own_names = (
        getattr(classifier, a, None) for a in ("num_classes", "input_shape", "class_names")
    )
    names = None if own_names is None else tuple(str(name) for name in own_names)
    classes = int(own_classes) if own_classes is not None else len(names) if names is not None else num_classes
    shape = tuple(int(size) for size in own_shape) if own_shape is not None else input_shape
    if names is not None and len(names) != classes:
        raise ModelError(f"{spec} must name its {classes} classes, got {len(names)} class_names")
    version = getattr(classifier, "version", None)
    version = version() if callable(version) else version
    if isinstance(classifier, nn.Module):
        classifier = classifier.to("cpu").eval()
        texts = ["module"]
    else:
        texts = ["callable", spec]
    reached = look_into(classifier)
    unseen = version is None and reached.opaque
    remarks = (f"its digest cannot see into {', '.join(sorted(reached.opaque))}: give it a version",) if unseen else ()
    texts += source_texts({module_name, factory.__module__ if inspect.isroutine(factory) else None})
    return LoadedModel(
        spec=spec,
        classifier=classifier,
        num_classes=classes,
        input_shape=shape,
        transform=None,
        noise=None,
        class_names=names,
        data=None,
        digest=reached_digest(reached, *texts, str(version)),
        description=describe(spec, classifier, input_shape=shape, num_classes=classes, remarks=remarks),
    )


def _find(spec: str) -> tuple[Callable[[], Any], str]:
    module_name, _, attribute = spec.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        what = f"{spec}: cannot import the module {module_name!r}"
        raise UsageError(f"{what} (from {os.getcwd()} or what is installed): {reason(error)}") from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in vars(module) if not name.startswith("_")]
            raise UsageError(f"{spec}: {module_name} has no {attribute!r}{did_you_mean(attribute, public)}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        raise UsageError(
            f"{spec} must be a function that returns the classifier, got a module; wrap it: def make(): return it"
        )
    if not callable(found):
        raise UsageError(f"{spec} must be a function that returns the classifier, got {type(found).__name__}")
    return found, module_name
