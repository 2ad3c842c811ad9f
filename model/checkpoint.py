"""Checkpoints in inference precision: a folder of arrays under 8 MB a file, with digests.

``checkpoint.json`` says what the network is, how it was made and how accurate it was; the arrays
of the integer network lie in ``part-0.npz`` and so on. P is not stored: seed and geometry give it
again. Both forms of P share the exact path.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..common.errors import InputError
from ..common.integer import IntegerLayer
from ..common.projection import ternary
from ..traces import networks
from .integer import IntegerNet

if TYPE_CHECKING:
    from .nets import PreActResNet, ResNet

__all__ = ["FORMS", "Checkpoint", "Manifest", "bundled", "is_checkpoint", "load", "pack"]

#: Forms of P that every checkpoint holds.
FORMS = ("patch", "tap")

#: Raw bytes of arrays in a part; compression and headers add less than what is left to 8 MB.
_PART_BYTES = 7_800_000

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
Shift = Annotated[int, Field(ge=0, le=62)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class NoiseNumbers(BaseModel):
    """Shifts of one layer's approximate path, for one form of P."""

    model_config = _STRICT

    matrix_shift: Shift
    noise_shift: Shift


class AffineNumbers(BaseModel):
    """What is no array of a batch-norm behind a sum."""

    model_config = _STRICT

    gain_shift: Shift
    y_scale: Annotated[float, Field(gt=0)]


class LayerNumbers(BaseModel):
    """What is no array of one layer; names as in :class:`sinai.common.integer.IntegerLayer`. Layers
    without a batch-norm behind their sum have no `affine`."""

    model_config = _STRICT

    name: str
    source: str
    residual: str
    shift: Shift
    relu: bool
    quantise_shift: Shift
    unsigned: bool
    scale: Annotated[float, Field(gt=0)]
    patch: NoiseNumbers
    tap: NoiseNumbers
    affine: AffineNumbers | None = None


class Manifest(BaseModel):
    """The contents of ``checkpoint.json``.

    Parameters
    ----------
    schema_version : int
        Version of this format: 1.
    network : str
        Name in :data:`sinai.model.nets.MODELS`.
    seed : int
        Seed of P.
    data : str
        Data set it was trained and distilled on.
    classes : tuple of str
        Names of the classes, in the order of the logits.
    input_scale, input_shift
        As in :class:`sinai.model.integer.IntegerNet`.
    layers : tuple of LayerNumbers
        In order of execution.
    weight_bits : int
        Bits of the exact path's weights, 2 to 16; the arrays of 8 and fewer are int8.
    training, distillation : dict
        Records of how it was made: recipe, images, epochs, seconds, versions.
    accuracy : list of dict
        Rows of :func:`sinai.model.evaluate.accuracy_table`; may be empty.
    parts : dict
        SHA-256 of every other file of the folder that belongs to the network.
    model_digest : str
        SHA-256 over the numbers of the network, whatever the records and the compression.
    """

    model_config = _STRICT

    schema_version: Literal[1] = 1
    network: str
    seed: Annotated[int, Field(ge=0)]
    data: str
    classes: tuple[str, ...]
    input_scale: Annotated[float, Field(gt=0)]
    input_shift: Shift
    layers: tuple[LayerNumbers, ...]
    weight_bits: Annotated[int, Field(ge=2, le=16)] = 16
    training: dict[str, Any]
    distillation: dict[str, Any]
    accuracy: list[dict[str, Any]] = []
    parts: dict[str, Digest] = {}
    model_digest: Digest


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network in the accelerator's numbers, with its record. Made by :func:`pack` or
    :func:`load`."""

    manifest: Manifest
    arrays: Mapping[str, NDArray[Any]]
    name: str

    @property
    def digest(self) -> str:
        """The model digest that traces carry."""
        return self.manifest.model_digest

    @cached_property
    def _nets(self) -> dict[str, IntegerNet]:
        return {}

    def integer(self, projection: str = "patch") -> IntegerNet:
        """Return the integer network with this form of P."""
        if projection not in FORMS:
            raise InputError(f"projection must be patch or tap, not {projection!r}")
        if projection not in self._nets:
            self._nets[projection] = _unpack(self.manifest, self.arrays, projection)
        return self._nets[projection]

    def floating(self, projection: str = "patch") -> ResNet | PreActResNet:
        """Return the PyTorch network with the values of the integers, in eval mode."""
        from .quantise import dequantise

        return dequantise(self.integer(projection), self.manifest.seed)

    def with_accuracy(self, rows: list[dict[str, Any]]) -> Checkpoint:
        """Return the same network with another accuracy table in its record."""
        manifest = self.manifest.model_copy(update={"accuracy": rows})
        return replace(self, manifest=manifest)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder, aside first and then renamed; it must not exist or must be empty.

        Raises
        ------
        InputError
            If it holds files or cannot be written.
        """
        folder = Path(folder)
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        try:
            if folder.is_dir() and any(folder.iterdir()):
                raise InputError(f"{folder}: holds files already; give another folder")
            aside.mkdir(parents=True)
            try:
                parts = {}
                for index, names in enumerate(_parts(self.arrays)):
                    raw = _archive({name: self.arrays[name] for name in names})
                    (aside / f"part-{index}.npz").write_bytes(raw)
                    parts[f"part-{index}.npz"] = hashlib.sha256(raw).hexdigest()
                manifest = self.manifest.model_copy(update={"parts": parts})
                (aside / "checkpoint.json").write_text(_json(manifest))
                os.replace(aside, folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); give a folder that can be made"
            ) from None
        return folder

    def rewrite_record(self, folder: str | os.PathLike[str]) -> None:
        """Replace ``checkpoint.json`` of a saved checkpoint by this one's; arrays stay."""
        path = Path(folder) / "checkpoint.json"
        aside = path.with_suffix(".part")
        aside.write_text(_json(self.manifest))
        os.replace(aside, path)


def pack(
    nets: Mapping[str, IntegerNet],
    *,
    seed: int,
    data: str,
    classes: tuple[str, ...],
    training: dict[str, Any],
    distillation: dict[str, Any],
    weight_bits: int = 16,
    name: str = "",
) -> Checkpoint:
    """Return the checkpoint of one network with both forms of P; `nets` maps form to network, whose
    exact weights have `weight_bits`."""
    patch = nets["patch"]
    arrays: dict[str, NDArray[Any]] = {
        "mean": patch.mean,
        "std": patch.std,
        "classifier": patch.classifier,
        "classifier_bias": patch.classifier_bias,
    }
    numbers = []
    for index, spec in enumerate(patch.layers):
        arrays[f"{index}/weight"] = spec.weight.astype(_weight_type(weight_bits))
        arrays[f"{index}/bias"], arrays[f"{index}/multiplier"] = spec.bias, spec.multiplier
        normed = None
        if spec.y_scale is not None:
            arrays[f"{index}/gain"], arrays[f"{index}/offset"] = spec.gain, spec.offset
            normed = AffineNumbers(gain_shift=spec.gain_shift, y_scale=spec.y_scale)
        forms = {}
        for form in FORMS:
            noisy = nets[form].layers[index]
            for field in ("noise_weight", "noise_bias", "noise_multiplier"):
                arrays[f"{index}/{form}/{field}"] = getattr(noisy, field)
            forms[form] = NoiseNumbers(
                matrix_shift=noisy.matrix_shift, noise_shift=noisy.noise_shift
            )
        numbers.append(
            LayerNumbers(
                name=spec.layer.name,
                source=spec.source,
                residual=spec.residual,
                shift=spec.shift,
                relu=spec.relu,
                quantise_shift=spec.quantise_shift,
                unsigned=spec.unsigned,
                scale=spec.scale,
                affine=normed,
                **forms,
            )
        )
    manifest = Manifest(
        network=patch.network,
        seed=seed,
        data=data,
        classes=classes,
        input_scale=patch.input_scale,
        input_shift=patch.input_shift,
        layers=tuple(numbers),
        weight_bits=weight_bits,
        training=training,
        distillation=distillation,
        model_digest="0" * 64,
    )
    digest = _digest(manifest, arrays)
    return Checkpoint(manifest.model_copy(update={"model_digest": digest}), arrays, name)


def bundled() -> dict[str, Path]:
    """Checkpoints that come with the package, by name."""
    root = Path(str(resources.files(__package__))) / "checkpoints"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/checkpoint.json"))}


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is the folder of a checkpoint, or else the name of a bundled one."""
    folder = Path(path)
    return (folder / "checkpoint.json").is_file() or (
        not folder.exists() and str(path) in bundled()
    )


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and check a checkpoint: a folder, or the name of a bundled one.

    Raises
    ------
    InputError
        If it is missing, damaged or of another version; the message names the file.
    """
    folder = Path(path)
    if not folder.is_dir():
        folder = bundled().get(str(path), folder)
    record = folder / "checkpoint.json"
    try:
        manifest = Manifest.model_validate_json(record.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{record}: cannot be read ({getattr(error, 'strerror', None) or error}); give the"
            f" folder of a checkpoint, or one of {', '.join(bundled()) or 'none bundled'}"
        ) from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise InputError(
            f"{record}: {where}: {fault['msg']}; give a checkpoint that this version wrote"
        ) from None
    arrays: dict[str, NDArray[Any]] = {}
    for name, digest in manifest.parts.items():
        arrays.update(_read_part(folder / Path(name).name, digest))
    _check(record, manifest, arrays)
    return Checkpoint(manifest, arrays, folder.name)


def _read_part(path: Path, digest: str) -> dict[str, NDArray[Any]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); get the checkpoint again"
        ) from None
    found = hashlib.sha256(raw).hexdigest()
    if found != digest:
        raise InputError(
            f"{path}: SHA-256 is {found}, checkpoint.json says {digest}; the file is damaged, get"
            " the checkpoint again"
        )
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, OSError):
        raise InputError(f"{path}: is no archive of arrays; get the checkpoint again") from None


def _expected(manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every array."""
    classes, last = len(manifest.classes), 0
    known: dict[str, tuple[str, tuple[int, ...]]] = {"mean": ("float32", (3,))}
    known["std"] = ("float32", (3,))
    for form in FORMS:
        for index, layer in enumerate(networks.layers(manifest.network, form, manifest.seed)):
            n, last = layer.c_out, layer.c_out
            known[f"{index}/weight"] = (_weight_type(manifest.weight_bits), (n, layer.d))
            known[f"{index}/bias"] = ("int32", (n,))
            known[f"{index}/multiplier"] = ("int16", (n,))
            known[f"{index}/{form}/noise_weight"] = ("int8", (n, layer.k))
            known[f"{index}/{form}/noise_bias"] = ("int32", (n,))
            known[f"{index}/{form}/noise_multiplier"] = ("int16", (n,))
    for index, numbers in enumerate(manifest.layers):
        if numbers.affine is not None:
            shape = known[f"{index}/multiplier"][1]
            known[f"{index}/gain"] = known[f"{index}/offset"] = ("int16", shape)
    known["classifier"] = ("float32", (classes, last))
    known["classifier_bias"] = ("float32", (classes,))
    return known


def _check(record: Path, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> None:
    try:
        names = [layer.name for layer in networks.layers(manifest.network)]
    except InputError as error:
        raise InputError(f"{record}: {error}") from None
    if [layer.name for layer in manifest.layers] != names:
        raise InputError(
            f"{record}: layers must be those of {manifest.network}: {', '.join(names)}"
        )
    known = _expected(manifest)
    odd = sorted({*known} ^ {*arrays})
    if odd:
        how = "missing" if odd[0] in known else "unknown"
        raise InputError(f"{record}: array {odd[0]} is {how}; get the checkpoint again")
    for name, (dtype, shape) in known.items():
        found = arrays[name]
        if (found.dtype.name, found.shape) != (dtype, shape):
            raise InputError(
                f"{record}: array {name} is {found.dtype.name} {found.shape}; it must be {dtype}"
                f" {shape}"
            )
    if _digest(manifest, arrays) != manifest.model_digest:
        raise InputError(
            f"{record}: model_digest does not fit the numbers of the network; get the checkpoint"
            " again"
        )


def _weight_type(bits: int) -> str:
    """Type of stored weights of the exact path; the network has them as int16."""
    return "int8" if bits <= 8 else "int16"


def _digest(manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over the manifest's numbers and every array, in the order of names. What a layer does
    not have, it does not count."""
    numbers = manifest.model_dump(
        mode="json",
        include={"network", "seed", "input_scale", "input_shift", "layers"},
        exclude_none=True,
    )
    total = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def _unpack(manifest: Manifest, arrays: Mapping[str, NDArray[Any]], form: str) -> IntegerNet:
    layers = []
    unsigned = {layer.name: layer.unsigned for layer in manifest.layers}
    geometry = networks.layers(manifest.network, form, manifest.seed)
    for index, (layer, numbers) in enumerate(zip(geometry, manifest.layers, strict=True)):
        rows, columns = (layer.k, layer.d)
        if form == "tap":
            rows, columns = layer.k // layer.taps, layer.c_in
        noise: NoiseNumbers = getattr(numbers, form)
        normed = numbers.affine
        gain, offset = np.ones(layer.c_out, np.int16), np.zeros(layer.c_out, np.int16)
        if normed is not None:
            gain, offset = arrays[f"{index}/gain"], arrays[f"{index}/offset"]
        layers.append(
            IntegerLayer(
                layer=replace(layer, unsigned_input=unsigned.get(numbers.source, False)),
                source=numbers.source,
                residual=numbers.residual,
                weight=arrays[f"{index}/weight"].astype(np.int16),
                bias=arrays[f"{index}/bias"],
                multiplier=arrays[f"{index}/multiplier"],
                shift=numbers.shift,
                matrix=ternary(rows, columns, (manifest.seed, index)),
                matrix_shift=noise.matrix_shift,
                noise_weight=arrays[f"{index}/{form}/noise_weight"],
                noise_bias=arrays[f"{index}/{form}/noise_bias"],
                noise_multiplier=arrays[f"{index}/{form}/noise_multiplier"],
                noise_shift=noise.noise_shift,
                gain=gain,
                offset=offset,
                gain_shift=0 if normed is None else normed.gain_shift,
                relu=numbers.relu,
                quantise_shift=numbers.quantise_shift,
                unsigned=numbers.unsigned,
                scale=numbers.scale,
                y_scale=None if normed is None else normed.y_scale,
            )
        )
    return IntegerNet(
        network=manifest.network,
        layers=tuple(layers),
        input_scale=manifest.input_scale,
        input_shift=manifest.input_shift,
        mean=arrays["mean"],
        std=arrays["std"],
        classifier=arrays["classifier"],
        classifier_bias=arrays["classifier_bias"],
    )


def _parts(arrays: Mapping[str, NDArray[Any]]) -> list[list[str]]:
    """Names of arrays, largest first, each in the first part that still has room."""
    parts: list[tuple[int, list[str]]] = []
    for name in sorted(arrays, key=lambda name: (-arrays[name].nbytes, name)):
        size = arrays[name].nbytes + 512
        for index, (used, names) in enumerate(parts):
            if used + size <= _PART_BYTES:
                parts[index] = (used + size, [*names, name])
                break
        else:
            parts.append((size, [name]))
    return [names for _, names in parts]


def _archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a .npz with nothing of the time or the system in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(
                member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False
            )
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _json(manifest: Manifest) -> str:
    return json.dumps(manifest.model_dump(mode="json", exclude_none=True), indent=1) + "\n"
