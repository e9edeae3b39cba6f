"""Errors of the application; the command line turns them into one clear message and an exit code."""

from smoothing.errors import InvalidArgumentError, SmoothingError


class CertifyError(SmoothingError):
    """Something in the world is not as it has to be (a file, a folder, a service): exit code 1."""


class UsageError(CertifyError, InvalidArgumentError):
    """The command line or the call asks for something that cannot be: exit code 2."""


class DatasetError(CertifyError):
    """A data set is missing, damaged, or holds values that are not allowed."""


class ModelError(CertifyError):
    """A model cannot be loaded: missing, truncated, tampered with, or not what it says it is."""


class JournalError(CertifyError):
    """The journal of a run cannot be read or written."""


class RunMismatchError(CertifyError):
    """A run folder holds a run of another identity."""
