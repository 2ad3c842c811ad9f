"""Image data sets as arrays: uint8 images (N, 3, H, W), int64 labels (N,), and where they are from.

A data set is named on the command line as ``KIND:PATH``. ``imagefolder:DIR`` reads
``DIR/train/CLASS/*`` and ``DIR/test/CLASS/*``; classes are numbered in alphabetical order, images
within a class in alphabetical order of their file names, so an index names the same image everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Images", "load"]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm"}


@dataclass(frozen=True)
class Images:
    """One split of a data set. Images are uint8 (N, 3, H, W); labels int64 (N,)."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def load(spec: str, split: str) -> Images:
    """Read one split (``train`` or ``test``) of the data set that `spec` names.

    Raises
    ------
    ValueError
        If the kind is unknown, or the folder holds no readable images.
    FileNotFoundError
        If the folder of that split does not exist.
    """
    kind, _, path = spec.partition(":")
    if kind not in _READERS or not path:
        raise ValueError(
            f"data must be KIND:PATH with KIND one of {', '.join(sorted(_READERS))}, not {spec!r}"
        )
    return _READERS[kind](Path(path), split)


def _imagefolder(root: Path, split: str) -> Images:
    from PIL import Image

    folder = root / split
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; imagefolder:DIR needs DIR/{split}/CLASS/IMAGE files"
        )
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    images, labels, size = [], [], None
    for label, name in enumerate(classes):
        for path in sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in _SUFFIXES):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))  # (H, W, 3)
            if size is not None and pixels.shape != size:
                raise ValueError(
                    f"{path}: image is {pixels.shape[1]}x{pixels.shape[0]} pixels, the ones before"
                    f" are {size[1]}x{size[0]}; all images of a data set must have one size"
                )
            size = pixels.shape
            images.append(pixels.transpose(2, 0, 1))
            labels.append(label)
    if not images:
        raise ValueError(f"{folder}: no images found; expected {folder}/CLASS/IMAGE.jpg or .png")
    return Images(
        name=f"imagefolder:{root.name}/{split}",
        images=np.stack(images),
        labels=np.asarray(labels, dtype=np.int64),
        classes=classes,
    )


_READERS = {"imagefolder": _imagefolder}
