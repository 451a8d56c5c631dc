"""AlexNet (Krizhevsky, Sutskever, Hinton, 2012) in hand-written CUDA, with a NumPy CPU backend."""

from importlib import metadata

from pyalexnet import errors, nets
from pyalexnet.backends import backend
from pyalexnet.net import Net

__all__ = ["Net", "__version__", "backend", "errors", "nets"]

try:
    __version__ = metadata.version("pyalexnet")
except metadata.PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
