"""The idx format of MNIST and its kin: a magic number, the sizes, then unsigned bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..common.errors import InputError

__all__ = ["read"]

_UNSIGNED_BYTE = 8


def read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an array of unsigned bytes with so many dimensions from `path` or from `path`.gz.

    Raises
    ------
    InputError
        If neither file can be read, or it is not of the format.
    """
    packed = path.with_name(f"{path.name}.gz")
    if not path.is_file() and packed.is_file():
        path, opened = packed, gzip.open
    else:
        opened = open
    try:
        with opened(path, "rb") as file:
            head = file.read(4 + 4 * dimensions)
            if head[:4] != bytes((0, 0, _UNSIGNED_BYTE, dimensions)):
                raise InputError(
                    f"{path}: begins with {head[:4].hex() or 'nothing'}, not with"
                    f" 000008{dimensions:02x}; give an idx file of bytes in {dimensions} dimensions"
                )
            if len(head) < 4 + 4 * dimensions:
                raise InputError(f"{path}: ends within its sizes; get the file again")
            shape = struct.unpack(f">{dimensions}I", head[4:])
            size = math.prod(shape)
            raw = file.read(size + 1)  # no more, whatever an archive unpacks to
    except (OSError, EOFError, zlib.error, MemoryError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(
            f"{path}: cannot be read ({reason}); give an idx file, plain or .gz"
        ) from None
    if len(raw) != size:
        found = "more" if len(raw) > size else f"{len(raw)}"
        raise InputError(
            f"{path}: its sizes {', '.join(map(str, shape))} need {size} bytes, it holds {found};"
            " get the file again"
        )
    return np.frombuffer(raw, np.uint8).reshape(shape)
