"""Image data sets as arrays: uint8 images (N, 3, H, W), int64 labels (N,), and where they are from.

A data set is named on the command line as ``KIND:PATH``.

``cifar10:DIR``, ``cifar100:DIR``
    The authors' Python batches, in their order; of CIFAR-100 the fine labels.
``fashion-mnist:DIR``
    The four idx files (Xiao et al. 2017), plain or .gz. Grey values are repeated in three channels,
    and two rows and columns of zeros are put around the 28 x 28 pixels: 32 x 32.
``imagefolder:DIR``
    ``DIR/train/CLASS/*`` and ``DIR/test/CLASS/*``; classes are numbered in alphabetical order,
    images within a class in alphabetical order of their file names, so an index names the same
    image everywhere.
``npz:FILE``
    What :func:`save` writes.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..common.errors import InputError, MissingError
from . import cifar, idx

__all__ = ["KINDS", "Images", "load", "save"]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm"}
_SPLITS = ("train", "test")

#: Names of Fashion-MNIST's labels (Xiao et al. 2017, Table 2); its files do not hold them.
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True, eq=False)
class Images:
    """One split of a data set.

    Parameters
    ----------
    name : str
        Kind, folder or file, and split.
    images : uint8 (N, 3, H, W)
    labels : int64 (N,)
    classes : tuple of str
        Name of each label.
    origin : int64 (N,), optional
        Index of each image in the data set it was taken from, where that is another.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    origin: NDArray[np.int64] | None = field(default=None)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> Images:
        """Return these images, with their indices in the data set as `origin`."""
        chosen = np.asarray(indices, dtype=np.int64)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise InputError(
                f"{self.name}: image indices must be between 0 and {len(self) - 1}, not"
                f" {chosen.min()} to {chosen.max()}"
            )
        origin = chosen if self.origin is None else self.origin[chosen]
        return Images(self.name, self.images[chosen], self.labels[chosen], self.classes, origin)


def load(spec: str, split: str) -> Images:
    """Read one split (``train`` or ``test``) of the data set that `spec` names.

    Raises
    ------
    InputError
        If the kind is unknown, or the folder or file is missing or holds no readable images.
    MissingError
        If reading image files needs Pillow, which is not installed.
    """
    kind, _, path = spec.partition(":")
    if kind not in KINDS or not path:
        raise InputError(
            f"data must be KIND:PATH with KIND one of {', '.join(sorted(KINDS))}, not {spec!r}"
        )
    if split not in _SPLITS:
        raise InputError(f"split must be train or test, not {split!r}")
    return KINDS[kind](Path(path), split)


def save(path: str | os.PathLike[str], splits: Mapping[str, Images]) -> None:
    """Write splits to a .npz file that ``npz:FILE`` reads, without loss; equal data, equal bytes.

    Arrays of each split: SPLIT_images, SPLIT_labels and SPLIT_origin; beside them `classes` and the
    names SPLIT_name.
    """
    arrays: dict[str, np.ndarray] = {}
    for split, images in splits.items():
        arrays[f"{split}_images"] = images.images
        arrays[f"{split}_labels"] = images.labels
        origin = np.arange(len(images)) if images.origin is None else images.origin
        arrays[f"{split}_origin"] = origin.astype(np.int64)
        arrays[f"{split}_name"] = np.array(images.name)
        arrays["classes"] = np.array(images.classes)
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _imagefolder(root: Path, split: str) -> Images:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingError(
            "imagefolder needs Pillow; install it with: pip install 'sinai[model]'"
        ) from None

    folder = root / split
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; imagefolder:DIR needs DIR/{split}/CLASS/IMAGE files"
        )
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    images, labels, size = [], [], None
    for label, name in enumerate(classes):
        for path in sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in _SUFFIXES):
            try:
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB"))  # (H, W, 3)
            except (UnidentifiedImageError, OSError) as error:
                raise InputError(
                    f"{path}: cannot be read as an image ({error}); replace or remove it"
                ) from None
            if size is not None and pixels.shape != size:
                raise InputError(
                    f"{path}: image is {pixels.shape[1]}x{pixels.shape[0]} pixels, the ones before"
                    f" are {size[1]}x{size[0]}; all images of a data set must have one size"
                )
            size = pixels.shape
            images.append(pixels.transpose(2, 0, 1))
            labels.append(label)
    if not images:
        raise InputError(f"{folder}: no images found; expected {folder}/CLASS/IMAGE.jpg or .png")
    return Images(
        name=f"imagefolder:{root.name}/{split}",
        images=np.stack(images),
        labels=np.asarray(labels, dtype=np.int64),
        classes=classes,
    )


def _cifar10(root: Path, split: str) -> Images:
    return Images(f"cifar10:{root.name}/{split}", *cifar.read(root, split, cifar.CIFAR10))


def _cifar100(root: Path, split: str) -> Images:
    return Images(f"cifar100:{root.name}/{split}", *cifar.read(root, split, cifar.CIFAR100))


def _fashion_mnist(root: Path, split: str) -> Images:
    prefix = "train" if split == "train" else "t10k"
    path = root / f"{prefix}-labels-idx1-ubyte"
    grey = idx.read(root / f"{prefix}-images-idx3-ubyte", 3)  # (N, 28, 28)
    labels = idx.read(path, 1)
    if grey.shape[1:] != (28, 28) or len(labels) != len(grey):
        raise InputError(
            f"{path}: {len(labels)} labels for images {grey.shape}; there must be one for each, of"
            " 28 x 28 pixels"
        )
    if len(labels) and labels.max() >= len(_FASHION):
        raise InputError(f"{path}: labels must be between 0 and 9, not {labels.max()}")
    padded = np.pad(grey, ((0, 0), (2, 2), (2, 2)))
    images = np.repeat(padded[:, None], 3, axis=1)
    name = f"fashion-mnist:{root.name}/{split}"
    return Images(name, images, labels.astype(np.int64), _FASHION)


def _npz(path: Path, split: str) -> Images:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            images = archive[f"{split}_images"]
            labels = archive[f"{split}_labels"]
            origin = archive[f"{split}_origin"] if f"{split}_origin" in archive.files else None
            named = f"{split}_name" in archive.files
            name = str(archive[f"{split}_name"]) if named else f"npz:{path.name}/{split}"
            classes = (
                tuple(map(str, archive["classes"].tolist()))
                if "classes" in archive.files
                else tuple(map(str, range(int(labels.max(initial=0)) + 1)))
            )
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); npz:FILE needs a .npz file"
        ) from None
    except KeyError:
        raise InputError(
            f"{path}: array {split}_images or {split}_labels is missing; npz:FILE needs both"
        ) from None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, TypeError):
        # numpy returns a lone array, which is no context manager, for a .npy file
        raise InputError(f"{path}: not a .npz file of plain arrays, or damaged") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(
            f"{path}: {split}_images must be uint8 (N, 3, H, W), not {images.dtype} {images.shape}"
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: {split}_labels must be {len(images)} whole numbers, not {labels.dtype}"
            f" {labels.shape}"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise InputError(
            f"{path}: {split}_labels must be between 0 and {len(classes) - 1}, not"
            f" {labels.min()} to {labels.max()}"
        )
    return Images(name, images, labels.astype(np.int64), classes, origin)


#: Reader of each kind of data set.
KINDS = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "fashion-mnist": _fashion_mnist,
    "imagefolder": _imagefolder,
    "npz": _npz,
}
