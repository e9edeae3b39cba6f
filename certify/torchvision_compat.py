"""Import torchvision, slow and in one place, also where its wheel lacks the native operators."""

import importlib
import sys
from types import ModuleType
from typing import Any

import torch

_library: Any = None  # kept alive: the operators vanish with the object


def import_torchvision(submodule: str = "") -> ModuleType:
    """Return torchvision, or its `submodule` ("datasets", "models", "transforms").

    Some builds of torchvision for CPU torch come without the compiled operators, and then fail to import because
    `torchvision::nms` is not there to attach a meta kernel to. Nothing here uses that operator, so its signature is
    declared, and a call of it would still fail.

    Raises:
        ImportError: If torchvision is not installed.
    """
    global _library  # noqa: PLW0603
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for module in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[module]
    if _library is None:
        library: Any = torch.library.Library
        _library = library("torchvision", "DEF")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module(name)
