"""Pickles of plain data: numbers, text, lists, dicts and numeric arrays, and nothing else.

A pickle is a program that may call whatever it names. Here it can name only what makes an array,
and even that is a stand-in of ours: no function of NumPy gets to see what the file says.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common.errors import InputError

__all__ = ["read"]

#: NumPy 2 renamed the package.
_ARRAY = {(f"{package}.multiarray", "_reconstruct") for package in ("numpy.core", "numpy._core")}

_CODE = re.compile(r"[iuf][1248]|b1")

_PLAIN = (type(None), bool, int, float, bytes, str)


def read(path: Path) -> dict[str, Any]:
    """Read the pickled dict of Python 2 or 3; text of Python 2 becomes bytes, but for the keys.

    Raises
    ------
    InputError
        If it cannot be read, is damaged, or holds anything but None, numbers, bytes, str, lists of
        those, and arrays of numbers.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        record = _Reader(io.BytesIO(raw), encoding="bytes").load()
        if type(record) is not dict:
            raise pickle.UnpicklingError(f"it is a {type(record).__name__}")
        return {_text(key): _value(entry) for key, entry in record.items()}
    except Exception as error:  # a damaged or crafted pickle raises whatever it likes
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(
            f"{path}: is no pickled dict of plain data ({reason}); only numbers, text, lists of"
            " them and arrays of numbers are read"
        ) from None


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        # Made anew for each look-up, so that a file leaves no mark on them.
        if (module, name) in _ARRAY:
            return lambda kind, shape, code: _Array()
        if (module, name) == ("numpy", "dtype"):
            return lambda code, align=False, copy=False: _Type(code)
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"
        raise pickle.UnpicklingError(f"it names {module}.{name}")


class _Type:
    """A type of numbers: its code, then its byte order."""

    def __init__(self, code: str | bytes):
        self.code, self.order = _text(code), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])

    def dtype(self) -> np.dtype:
        if not _CODE.fullmatch(self.code) or self.order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"it has an array of type {self.order}{self.code}")
        return np.dtype(self.order + self.code)


class _Array:
    """An array as the pickle describes it: version, shape, type, Fortran order, bytes."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.type, self.fortran, self.raw = state

    def value(self) -> NDArray[Any]:
        if not isinstance(self.type, _Type) or not isinstance(self.raw, bytes):
            raise pickle.UnpicklingError("it has an array that is not of numbers")
        flat = np.frombuffer(self.raw, self.type.dtype())
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def _text(value: str | bytes) -> str:
    if type(value) is bytes:
        return value.decode("ascii")
    if type(value) is not str:
        raise pickle.UnpicklingError(f"it has a {type(value).__name__} in place of a name")
    return value


def _value(entry: Any) -> Any:
    """An entry of the dict, with an array in place of what stands for it."""
    if type(entry) is _Array:
        return entry.value()
    for part in entry if type(entry) is list else [entry]:
        if type(part) not in _PLAIN:
            raise pickle.UnpicklingError(f"it holds a {type(part).__name__}")
    return entry
