"""Every exception that pyalexnet raises on purpose."""


class PyalexnetError(Exception):
    """Root of the package's exceptions; its text is one sentence for the user."""


class ArgumentError(PyalexnetError, ValueError):
    """An argument was refused; the text names it, its value and what was expected."""


class BackendUnavailable(PyalexnetError, RuntimeError):
    """A backend cannot run here; the text says why, and what to install."""


class KernelError(PyalexnetError, RuntimeError):
    """A kernel could not be launched, or failed or broke a rule while it ran."""


class DataError(PyalexnetError):
    """A dataset is missing, damaged or of an unexpected shape."""


class CheckpointError(PyalexnetError):
    """A checkpoint could not be written, or did not pass a check on reading."""


class RunError(PyalexnetError):
    """A run folder cannot be made or written, is in use, or does not exist."""


class TrainingError(PyalexnetError):
    """Training cannot go on, for instance because the loss is no longer finite."""


def reason(error: BaseException) -> str:
    """Why something failed, in its own words: one line without a full stop.

    The system's message if a system call failed, else the exception's own, else its type.
    """
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()).rstrip(".") or type(error).__name__
