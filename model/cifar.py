"""CIFAR-10 and CIFAR-100 in their authors' Python batches (Krizhevsky 2009).

A batch is a pickled dict: ``data``, uint8 (N, 3072), an image's red, then green, then blue plane,
each by rows; ``labels`` or, in CIFAR-100, ``fine_labels``. Names of the classes lie in
``batches.meta`` or ``meta``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common.errors import InputError
from . import unpickle

__all__ = ["CIFAR10", "CIFAR100", "Layout", "read"]

_SIDE = 32


@dataclass(frozen=True)
class Layout:
    """Where the parts of a data set lie.

    Parameters
    ----------
    train, test : tuple of str
        Names of the files of each split, in order.
    meta, names : str
        File of the names of the classes, and its entry.
    labels : str
        Entry of a batch.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    names: str
    labels: str


CIFAR10 = Layout(
    tuple(f"data_batch_{number}" for number in range(1, 6)),
    ("test_batch",),
    "batches.meta",
    "label_names",
    "labels",
)
CIFAR100 = Layout(("train",), ("test",), "meta", "fine_label_names", "fine_labels")


def read(
    folder: Path, split: str, layout: Layout
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Return images (N, 3, 32, 32), labels (N,) and the names of the classes.

    Raises
    ------
    InputError
        If a file is missing, damaged, or holds anything but plain data, or its entries are not
        those of the format; the message names file and entry.
    """
    files = layout.train if split == "train" else layout.test
    needed = [*files, layout.meta]
    for name in needed:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name}: no such file; the folder must hold {', '.join(needed)}, as in"
                " the authors' archive of Python batches"
            )
    path = folder / layout.meta
    classes = _names(path, _entry(path, unpickle.read(path), layout.names), layout.names)
    images, labels = [], []
    for name in files:
        path = folder / name
        batch = unpickle.read(path)
        pixels = _entry(path, batch, "data")
        width = 3 * _SIDE**2
        shaped = isinstance(pixels, np.ndarray) and pixels.shape[1:] == (width,)
        if not shaped or pixels.dtype != np.uint8:
            raise InputError(f"{path}: data must be uint8 (N, {width}), not {_kind(pixels)}")
        images.append(pixels.reshape(-1, 3, _SIDE, _SIDE))
        labels.append(
            _labels(path, layout.labels, _entry(path, batch, layout.labels), len(pixels), classes)
        )
    return np.concatenate(images), np.concatenate(labels), classes


def _entry(path: Path, record: dict[str, Any], name: str) -> Any:
    if name not in record:
        raise InputError(f"{path}: has no entry {name}; give the file of the authors' archive")
    return record[name]


def _names(path: Path, found: Any, name: str) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(n, (bytes, str)) for n in found):
        raise InputError(f"{path}: {name} must be a list of names, not {_kind(found)}")
    return tuple(n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in found)


def _labels(
    path: Path, name: str, found: Any, count: int, classes: tuple[str, ...]
) -> NDArray[np.int64]:
    whole = isinstance(found, np.ndarray) and found.dtype.kind in "iu" and found.shape == (count,)
    listed = isinstance(found, list) and all(type(label) is int for label in found)
    if not whole and not (listed and len(found) == count):
        raise InputError(f"{path}: {name} must be {count} whole numbers, not {_kind(found)}")
    if count and not 0 <= min(found) <= max(found) < len(classes):
        raise InputError(
            f"{path}: {name} must be between 0 and {len(classes) - 1}, not {min(found)} to"
            f" {max(found)}"
        )
    return np.asarray(found, dtype=np.int64)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    size = f" of {len(value)}" if isinstance(value, list) else ""
    return f"{type(value).__name__}{size}"
