"""Malignant or benign: EfficientNetV2 in JAX and Flax on crops of 3D total body photography."""

import sys
from typing import TYPE_CHECKING, Any

from jaxlesion._version import __version__
from jaxlesion.runtime.memory import take_large_pages

if sys.argv[:1] == ["-m"]:  # Python is looking for the module of a command: the time to start again, if at all
    take_large_pages()

if TYPE_CHECKING:
    from jaxlesion.api import create_model, load_run, normalise

__all__ = ["__version__", "create_model", "load_run", "normalise"]

_HOME = {"create_model": "jaxlesion.api", "load_run": "jaxlesion.api", "normalise": "jaxlesion.api"}


def __getattr__(name: str) -> Any:
    """Import JAX only when it is used: tools that read tables do not wait for it."""
    if name not in _HOME:
        raise AttributeError(f"module 'jaxlesion' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
