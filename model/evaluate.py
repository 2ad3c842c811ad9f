"""Accuracy of a checkpoint, in floating point and in the accelerator's integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..common.errors import InputError
from ..common.scheme import Scheme
from .checkpoint import Checkpoint
from .data import Images
from .sinai import set_scheme

__all__ = ["SCHEMES", "accuracy_table", "spread"]

#: Schemes of the table that a checkpoint carries.
SCHEMES = ("dense", "unstructured:0.5", "unstructured:0.9", "structured:4:8", "structured:7:8")

_BATCH = 25


def spread(total: int, count: int) -> np.ndarray:
    """Return `count` indices spread evenly over `total` images, (count,) ascending."""
    if not 1 <= count <= total:
        raise InputError(f"count must be between 1 and the {total} images there are, not {count}")
    return np.arange(count) * total // count


def accuracy_table(
    checkpoint: Checkpoint,
    data: Images,
    count: int = 2000,
    schemes: Sequence[str] = SCHEMES,
    *,
    projections: Sequence[str] = ("patch",),
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Return one row a form of P and scheme: accuracies on `count` images spread evenly.

    Keys: projection, scheme, images, floating (fake-quantised PyTorch network), integer (the
    accelerator's arithmetic), agreement (share of images on which both choose the same class).
    Both come from the same checkpoint. `progress` is called as ``progress(done, of)`` in images.
    """
    part = data.take(spread(len(data), count))
    rows, done, of = [], 0, count * len(schemes) * len(projections)
    for projection in projections:
        integer = checkpoint.integer(projection)
        floating = checkpoint.floating(projection)
        for text in schemes:
            scheme = Scheme.parse(text)
            set_scheme(floating, scheme)
            chosen: list[np.ndarray] = []
            for start in range(0, count, _BATCH):
                images = part.images[start : start + _BATCH]
                with torch.no_grad():
                    logits = floating(torch.from_numpy(images).float().div_(255))
                chosen.append(
                    np.stack([logits.argmax(1).numpy(), integer.run(images, scheme).argmax(1)])
                )
                done += len(images)
                if progress is not None:
                    progress(done, of)
            both = np.concatenate(chosen, axis=1)
            right = (both == part.labels).mean(1)
            rows.append(
                {
                    "projection": projection,
                    "scheme": str(scheme),
                    "images": count,
                    "floating": round(float(right[0]), 4),
                    "integer": round(float(right[1]), 4),
                    "agreement": round(float((both[0] == both[1]).mean()), 4),
                }
            )
    return rows
