"""One wording for data that are not there."""

from collections.abc import Sequence
from pathlib import Path

from certify.errors import DatasetError


def not_found(name: str, split: str, looked_for: Sequence[Path], mend: str) -> DatasetError:
    """Return the error for a named data set with no files: what was looked for, and what to do."""
    paths = ", ".join(str(path) for path in looked_for)
    return DatasetError(
        f"{name} ({split} split) was not found: looked for {paths}. {mend}, or say where the data lie with --data-root "
        "or the environment variable CERTIFY_DATA"
    )


def download_hint(torchvision_class: str, root: Path) -> str:
    """Return the one-line command that lets torchvision download a data set to `root`."""
    code = f"from torchvision.datasets import {torchvision_class}; {torchvision_class}({str(root)!r}, download=True)"
    return f'Download it once with: python -c "{code}"'
