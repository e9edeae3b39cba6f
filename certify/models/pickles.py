"""Reading what `torch.save` wrote, without running code that it may contain."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from certify.errors import ModelError
from certify.models.base import reason


def read_torch_file(path: Path, *, trust_pickle: bool = False) -> Any:
    """Return the content of a file of `torch.save`, on the CPU.

    Args:
        path: The file.
        trust_pickle: False: tensors and plain containers only, anything else is refused (`weights_only=True`; there is
            no falling back). True: unpickle everything, which runs whatever code the file contains.

    Raises:
        ModelError: If the file is missing, damaged or refused; the message of a refusal says what it asks for.
    """
    if not path.is_file():
        raise ModelError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of pickle protocols and old formats: what cannot be read is an error below
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        raise ModelError(_refusal(path, str(error))) from None
    except Exception as error:
        if "TorchScript" in str(error):
            raise ModelError(
                f"{path} is a TorchScript archive, which is not read here; export the model to ONNX and say onnx:FILE"
            ) from None
        raise ModelError(f"{path} is damaged or truncated, or torch.save did not write it: {reason(error)}") from error


def _refusal(path: Path, message: str) -> str:
    wanted = re.search(r"GLOBAL (\S+)", message) or re.search(r"got (<[^>]+>)", message)
    if wanted is not None:
        what = f"is a pickle that asks for {wanted[1]}, not a plain file of tensors"
    else:
        said = [line.strip() for line in message.splitlines() if line.strip() and "weights_only" not in line]
        what = "is damaged or truncated, or not a plain file of tensors that torch.save wrote"
        what += f" ({said[-1]})" if said else ""
    return (
        f"{path} {what}. Reading a pickle in full runs whatever code it contains, with your rights, so it is refused. "
        "If you trust its author as you trust a program that you run, repeat with --trust-pickle; better is a file "
        "with the state_dict only, or safetensors"
    )
