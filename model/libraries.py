"""The libraries that attacks come from, loaded when an attack needs them.

Neither asks for torchvision. foolbox (FGSM, PGD, C&W) is imported here alone, for two traits: it
reads a name that SciPy has moved, with a warning, and it imports GitPython, which refuses to load
where there is no git, though nothing here clones anything.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from types import ModuleType

from ..common.errors import MissingError

__all__ = ["LIBRARIES", "autoattack", "foolbox"]

#: Packages whose versions decide what an attack does.
LIBRARIES = ("torch", "numpy", "foolbox", "eagerpy", "pyautoattack")


def foolbox() -> ModuleType:
    """The package foolbox.

    Raises
    ------
    MissingError
        If it is not installed.
    """
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return _load("foolbox")


def autoattack() -> ModuleType:
    """The package pyautoattack: AutoAttack and Square as their authors published them.

    Raises
    ------
    MissingError
        If it is not installed.
    """
    _load("pyautoattack.square")
    return _load("pyautoattack")


def _load(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise MissingError(
            f"attacks need {package} ({error}); install it with: pip install 'sinai[model]'"
        ) from None
