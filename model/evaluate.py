"""Accuracy of a checkpoint: in floating point, fake-quantised and in the accelerator's integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.scheme import Scheme
from .checkpoint import Checkpoint
from .data import Images
from .rounded import fake_quantised
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

    All come from the same checkpoint, so their weights are the same. Keys: projection, scheme,
    images, and

    floating
        PyTorch: 16-bit values are not rounded; x^Q, p and W~ are, since they are the method.
    fake_quantised
        PyTorch with every rounding of the accelerator (:mod:`sinai.model.rounded`).
    integer
        The accelerator's arithmetic.
    agreement, fake_agreement
        Share of images on which `integer` and `floating`, or `integer` and `fake_quantised`, choose
        the same class.

    `progress` is called as ``progress(done, of)`` in images.
    """
    part = data.take(spread(len(data), count))
    rows, done, of = [], 0, count * len(schemes) * len(projections)
    for projection in projections:
        integer = checkpoint.integer(projection)
        floating = checkpoint.floating(projection)
        rounded = fake_quantised(integer, checkpoint.manifest.seed)
        for text in schemes:
            scheme = Scheme.parse(text)
            set_scheme(floating, scheme)
            set_scheme(rounded, scheme)
            chosen: list[np.ndarray] = []
            for start in range(0, count, _BATCH):
                images = part.images[start : start + _BATCH]
                x = torch.from_numpy(images).double().div_(255)
                answers = (_classes(floating, x.float()), _classes(rounded, x))
                chosen.append(np.stack([*answers, integer.run(images, scheme).argmax(1)]))
                done += len(images)
                if progress is not None:
                    progress(done, of)
            classes = np.concatenate(chosen, axis=1)
            right = (classes == part.labels).mean(1)
            agree = (classes[:2] == classes[2]).mean(1)
            rows.append(
                {
                    "projection": projection,
                    "scheme": str(scheme),
                    "images": count,
                    "floating": round(float(right[0]), 4),
                    "fake_quantised": round(float(right[1]), 4),
                    "integer": round(float(right[2]), 4),
                    "agreement": round(float(agree[0]), 4),
                    "fake_agreement": round(float(agree[1]), 4),
                }
            )
    return rows


@torch.no_grad()
def _classes(net: nn.Module, images: Tensor) -> np.ndarray:
    """Class that `net` chooses for each of the images (B, 3, H, W) in [0, 1]."""
    return net(images).argmax(1).numpy()
