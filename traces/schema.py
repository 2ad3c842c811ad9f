"""The trace format: activation masks of one scheme of one network, for several images.

A trace is one .npz file that numpy reads without us. docs/trace-format.md is the specification;
this module is the only reader and writer of ours.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import math
import os
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, BinaryIO, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator
from pydantic import model_validator as validates_model

from ..common.errors import InputError
from ..common.layer import Layer, ceil_div
from ..common.scheme import Scheme
from .operands import LayerOperands, Scales, check, forms, from_arrays, to_arrays

__all__ = ["SCHEMA", "ArrayRecord", "Manifest", "Trace", "bundled", "load", "make", "save"]

#: Version of the format that this module reads and writes.
SCHEMA = 1

#: Largest manifest that is read, in bytes; the largest real ones have a few tens of KiB.
_MANIFEST_LIMIT = 1 << 24

#: What a damaged archive makes zipfile, its decompressors and numpy's header parser raise.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    SyntaxError,
    RuntimeError,  # includes NotImplementedError: an unknown compression or encrypted member
)

_STRICT = ConfigDict(
    frozen=True, extra="forbid", strict=True, populate_by_name=True, allow_inf_nan=False
)

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Theta = Annotated[int, Field(ge=-(1 << 15), le=1 << 15)]

#: A layer in the manifest: every field of common.layer.Layer, none with a default.
_LayerRecord: type[BaseModel] = create_model(
    "_LayerRecord", __config__=_STRICT, **{n: (t, ...) for n, t in get_type_hints(Layer).items()}
)


class ArrayRecord(BaseModel):
    """What the manifest says of an array: numpy's name of the type (little-endian), the shape, and
    the SHA-256 of its raw bytes in C order, in lower-case hexadecimal."""

    model_config = _STRICT

    dtype: str
    shape: tuple[Count, ...]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """Where the masks of a trace come from, and what they belong to.

    Parameters
    ----------
    network : str
        Name of the network, for example ``resnet18``.
    synthetic : bool
        True if the masks come from a generator, false if a network computed them.
    scheme : str
        Noise scheme as `common.scheme.Scheme.parse` reads it.
    selection : str
        How essential neurons were chosen, in words, for example ``top-k of z~ per image``.
    noise_target : float
        Share of noisy neurons that the scheme asks for, in [0, 1].
    noise_measured : float
        Share of noisy neurons over all layers and images; :func:`make` fills it in.
    seed : int
        Seed of the generator, or of the training.
    data : str
        Name of the data set, empty if there is none.
    image_indices : tuple of int
        Index of every image in the data set; its length is the number of images.
    labels : tuple of int
        Class of every image, or empty.
    accuracy : dict
        Measured accuracies by name, in [0, 1]; may be empty.
    model_digest : str
        Digest of the checkpoint, empty if there is none.
    one_net : bool
        True if one net serves all schemes, false if this one was trained for this scheme.
    command : str
        Command that made the trace.
    versions : dict
        Versions of the software that made it, by name.
    theta : tuple of tuple of int
        Threshold of each layer (outer) and image (inner), -32768..32768; empty if there is none.
    layers : tuple of Layer
        Geometry in order of execution.
    operands : tuple of Scales
        Of each layer, if the trace has operands; else empty. :func:`make` fills it in.
    arrays : dict
        Every other array of the file; :func:`make` fills it in.
    """

    model_config = _STRICT

    schema_version: int = Field(default=SCHEMA, alias="schema")
    network: Annotated[str, Field(min_length=1)]
    synthetic: bool
    scheme: str
    selection: str
    noise_target: Share
    noise_measured: Share = 0.0
    seed: Count
    data: str = ""
    image_indices: Annotated[tuple[Count, ...], Field(min_length=1)]
    labels: tuple[Count, ...] = ()
    accuracy: dict[str, Share] = {}
    model_digest: str = ""
    one_net: bool
    command: str
    versions: dict[str, str] = {}
    theta: tuple[tuple[Theta, ...], ...] = ()
    layers: Annotated[tuple[_LayerRecord, ...], Field(min_length=1)]  # type: ignore[valid-type]
    operands: tuple[Scales, ...] = ()
    arrays: dict[str, ArrayRecord] = {}

    @field_validator("scheme")
    @classmethod
    def _scheme_is_known(cls, value: str) -> str:
        Scheme.parse(value)
        return value

    @field_validator("layers", mode="before")
    @classmethod
    def _layers_as_records(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return tuple(asdict(layer) if isinstance(layer, Layer) else layer for layer in value)

    @validates_model(mode="after")
    def _lengths_agree(self) -> Manifest:
        images, layers = len(self.image_indices), len(self.layers)
        if self.labels and len(self.labels) != images:
            raise ValueError(f"labels must be {images}, one an image, not {len(self.labels)}")
        if self.operands and len(self.operands) != layers:
            raise ValueError(f"operands must be {layers}, one a layer, not {len(self.operands)}")
        if self.theta and len(self.theta) != layers:
            raise ValueError(f"theta must have {layers} rows, one a layer, not {len(self.theta)}")
        for index, row in enumerate(self.theta):
            if len(row) != images:
                raise ValueError(
                    f"theta.{index} must have {images} values, one an image, not {len(row)}"
                )
        for record in self.layers:
            Layer(**record.model_dump())  # raises on an impossible geometry
        return self


@dataclass(frozen=True)
class Trace:
    """Masks of one scheme of one network. Made by :func:`load`, :func:`make` or :func:`save`.

    Parameters
    ----------
    manifest : Manifest
        Complete, with `arrays`.
    name : str
        Stem of the file, or network and scheme if there is no file yet.
    """

    manifest: Manifest
    name: str
    _arrays: Mapping[str, NDArray[Any]] = field(repr=False, compare=False)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Geometry in order of execution."""
        return tuple(Layer(**record.model_dump()) for record in self.manifest.layers)

    @cached_property
    def scheme(self) -> Scheme:
        return Scheme.parse(self.manifest.scheme)

    @property
    def images(self) -> int:
        return len(self.manifest.image_indices)

    @property
    def synthetic(self) -> bool:
        return self.manifest.synthetic

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Essential neurons of layer `index`: (images, C_out, H_out, W_out), True where exact."""
        layer = self.layers[index]
        shape = (self.images, layer.c_out, layer.h_out, layer.w_out)
        if self.scheme.dense:
            return np.ones(shape, dtype=bool)
        bits = np.unpackbits(self._arrays[f"mask/{index}"], axis=1, count=layer.neurons)
        return bits.view(bool).reshape(shape)

    def density(self, index: int) -> NDArray[np.float32] | None:
        """Share of essential neurons of each channel, (C_out,), calibrated on images other than
        those of the trace; None if the trace has none."""
        return self._arrays.get(f"density/{index}")

    def operands(self, index: int) -> LayerOperands | None:
        """What layer `index` reads, for every image; None if the trace has no operands."""
        if not self.manifest.operands:
            return None
        return from_arrays(index, self.layers[index], self.manifest.operands[index], self._arrays)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace, aside first and then renamed. Equal traces give equal bytes, as long as
        the compression library is the same.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        path = Path(path)
        aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        text = json.dumps(
            self.manifest.model_dump(mode="json", by_alias=True),
            sort_keys=True,
            separators=(",", ":"),
        )
        manifest = np.frombuffer(text.encode(), np.uint8)
        try:
            try:
                with zipfile.ZipFile(aside, "w") as archive:
                    for name, array in {"manifest": manifest, **self._arrays}.items():
                        _write_member(archive, name, array)
                os.replace(aside, path)
            finally:
                aside.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror}); give a path in a folder that exists"
            ) from None


def make(
    manifest: Manifest,
    masks: Sequence[NDArray[np.bool_]],
    densities: Sequence[NDArray[np.floating] | None] | None = None,
    operands: Sequence[LayerOperands] | None = None,
) -> Trace:
    """Return the trace of `masks`, in memory.

    Parameters
    ----------
    manifest : Manifest
        `noise_measured`, `operands` and `arrays` are ignored and filled in.
    masks : sequence of (images, C_out, H_out, W_out) bool arrays
        One a layer, True where the neuron is essential; empty for a dense scheme.
    densities : sequence of (C_out,) float arrays or None
        One a layer, or None; calibrated on other images.
    operands : sequence of LayerOperands, optional
        One a layer. In a trace that is not synthetic the masks follow from them.

    Raises
    ------
    InputError
        If an array is missing, or has the wrong shape or type.
    """
    name = f"{manifest.network}-{manifest.scheme.replace(':', '-')}"
    layers = [Layer(**record.model_dump()) for record in manifest.layers]
    dense = Scheme.parse(manifest.scheme).dense
    images = len(manifest.image_indices)
    if len(masks) != (0 if dense else len(layers)):
        raise InputError(
            f"{name}: masks must be {0 if dense else len(layers)} arrays, not {len(masks)}"
        )
    if densities is not None and len(densities) != len(layers):
        raise InputError(f"{name}: densities must be {len(layers)} arrays, not {len(densities)}")
    arrays: dict[str, NDArray[Any]] = {}
    essential = 0
    for index, (layer, mask) in enumerate(zip(layers, masks, strict=False)):
        shape = (images, layer.c_out, layer.h_out, layer.w_out)
        if mask.dtype != np.bool_ or mask.shape != shape:
            raise InputError(
                f"{name}: mask/{index} must be bool {shape}, not {mask.dtype} {mask.shape}"
            )
        arrays[f"mask/{index}"] = np.packbits(mask.reshape(images, -1), axis=1)
        essential += int(np.count_nonzero(mask))
    for index, density in enumerate(densities or ()):
        if density is not None:
            array = np.ascontiguousarray(density, dtype="<f4")
            _check_density(name, index, array, layers[index])
            arrays[f"density/{index}"] = array
    if operands is not None and len(operands) != len(layers):
        raise InputError(f"{name}: operands must be {len(layers)}, not {len(operands)}")
    for index, each in enumerate(operands or ()):
        arrays |= to_arrays(index, layers[index], images, each)
    neurons = images * sum(layer.neurons for layer in layers)
    measured = 0.0 if dense else 1 - essential / neurons
    records = {key: _record(array) for key, array in arrays.items()}
    complete = manifest.model_copy(
        update={
            "noise_measured": measured,
            "operands": tuple(each.scales for each in operands or ()),
            "arrays": records,
        }
    )
    return Trace(complete, name, arrays)


def save(
    path: str | os.PathLike[str],
    manifest: Manifest,
    masks: Sequence[NDArray[np.bool_]],
    densities: Sequence[NDArray[np.floating] | None] | None = None,
    operands: Sequence[LayerOperands] | None = None,
) -> Trace:
    """Write :func:`make` of the rest to `path` and return it."""
    trace = make(manifest, masks, densities, operands)
    trace.save(path)
    return trace


def load(path: str | os.PathLike[str]) -> Trace:
    """Read and check a trace: every array is there, has its shape and type, and its digest.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another version or against the format.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); give a trace, a .npz file that"
            " `sinai trace` wrote"
        ) from None


def bundled() -> dict[str, Path]:
    """Traces that come with the package, by name (stem of the file)."""
    folder = Path(str(resources.files(__package__))) / "data"
    return {path.stem: path for path in sorted(folder.glob("*.npz"))}


def _read(path: Path, file: BinaryIO) -> Trace:
    try:
        archive = zipfile.ZipFile(file)
    except _DAMAGE:
        raise InputError(
            f"{path}: not a .npz file, or cut short; give a trace that `sinai trace` wrote"
        ) from None
    with archive:
        members = archive.namelist()
        names = [member.removesuffix(".npy") for member in members]
        if "manifest" not in names:
            raise InputError(
                f"{path}: array manifest is missing (arrays are {', '.join(names) or 'none'});"
                " give a trace that `sinai trace` wrote"
            )
        manifest = _parse(path, _read_member(path, archive, "manifest", None))
        expected = _expected(path, manifest)
        if sorted(names) != sorted(["manifest", *expected]):
            odd = sorted({*names} ^ {"manifest", *expected})
            what = f"array {odd[0]}" if odd else "an array"
            how = "missing" if odd and odd[0] in expected else "unknown or there twice"
            raise InputError(
                f"{path}: {what} is {how}; a trace of its manifest has manifest, {_short(expected)}"
            )
        arrays = {}
        for name, (dtype, shape) in expected.items():
            array = _read_member(path, archive, name, (dtype, shape))
            if _record(array) != manifest.arrays[name]:
                raise InputError(
                    f"{path}: array {name} has SHA-256 {_record(array).sha256}, its manifest says"
                    f" {manifest.arrays[name].sha256}; the file is damaged, get it again"
                )
            arrays[name] = array
    trace = Trace(manifest, path.stem, arrays)
    for index, layer in enumerate(trace.layers):
        _check_padding(path, index, arrays.get(f"mask/{index}"), layer)
        if (density := trace.density(index)) is not None:
            _check_density(path, index, density, layer)
        if manifest.operands:
            for name in forms(index, layer, trace.images):
                check(f"{path}: array", name, arrays[name], layer)
    return trace


def _parse(path: Path, raw: NDArray[np.uint8]) -> Manifest:
    try:
        text = raw.tobytes().decode("utf-8")
        data = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"{path}: array manifest is not JSON ({error}); it must be JSON in UTF-8"
        ) from None
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError(f"{path}: manifest has no key schema; it must say schema: {SCHEMA}")
    if data["schema"] != SCHEMA or isinstance(data["schema"], bool):
        raise InputError(
            f"{path}: schema is {data['schema']!r}; this version reads schema {SCHEMA}, so export"
            " the trace again or use the version of sinai that wrote it"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise InputError("\n".join(_sentence(path, fault) for fault in error.errors())) from None


def _sentence(path: Path, fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    match fault["type"]:
        case "extra_forbidden":
            return (
                f"{path}: manifest has the unknown key {where}; known keys are"
                f" {', '.join(_keys(fault['loc']))}"
            )
        case "missing":
            return f"{path}: manifest has no key {where}; it needs {', '.join(_keys(fault['loc']))}"
        case "value_error":
            return f"{path}: manifest{': ' + where if where else ''}: {fault['ctx']['error']}"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{path}: manifest: {where}: {message}, not {reprlib.repr(fault['input'])}"


def _keys(location: tuple[Any, ...]) -> list[str]:
    models = {"layers": _LayerRecord, "arrays": ArrayRecord, "operands": Scales}
    model = models.get(location[0], Manifest)
    if len(location) == 1:
        model = Manifest
    return [info.alias or name for name, info in model.model_fields.items()]


def _expected(path: Path, manifest: Manifest) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of the arrays that the manifest announces, all of them known ones."""
    images = len(manifest.image_indices)
    layers = [Layer(**record.model_dump()) for record in manifest.layers]
    known = {}
    for index, layer in enumerate(layers):
        if not Scheme.parse(manifest.scheme).dense:
            known[f"mask/{index}"] = ("uint8", (images, ceil_div(layer.neurons, 8)))
    if manifest.operands:
        for index, layer in enumerate(layers):
            known |= forms(index, layer, images)
    required = list(known)
    for index, layer in enumerate(layers):
        known[f"density/{index}"] = ("float32", (layer.c_out,))
    for name in required:
        if name not in manifest.arrays:
            raise InputError(
                f"{path}: manifest: arrays has no {name}; a trace of {len(layers)} layers and"
                f" scheme {manifest.scheme} needs {_short(required)}"
            )
    for name, record in manifest.arrays.items():
        if name not in known:
            raise InputError(
                f"{path}: manifest: arrays has the unknown {name}; known are {_short(known)}"
            )
        if (record.dtype, record.shape) != known[name]:
            dtype, shape = known[name]
            raise InputError(
                f"{path}: manifest: arrays.{name} is {record.dtype} {record.shape}; the geometry"
                f" asks for {dtype} {shape}"
            )
    return {name: form for name, form in known.items() if name in manifest.arrays}


def _read_member(
    path: Path, archive: zipfile.ZipFile, name: str, expected: tuple[str, tuple[int, ...]] | None
) -> NDArray[Any]:
    """Read one array; the header is checked before anything of its size is allocated."""
    try:
        with archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            if version != (1, 0):
                raise ValueError("format version")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
            if expected is None:
                expected = ("uint8", shape)
                if len(shape) != 1 or shape[0] > _MANIFEST_LIMIT:
                    raise ValueError("manifest too large")
            wanted = np.dtype(expected[0]).newbyteorder("<")
            if (dtype, shape, fortran) != (wanted, expected[1], False):
                raise InputError(
                    f"{path}: array {name} is {dtype} {shape}; it must be {expected[0]}"
                    f" {expected[1]} in C order"
                )
            size = math.prod(shape) * wanted.itemsize
            raw = member.read(size + 1)
            if len(raw) != size:
                raise ValueError("length")
    except InputError:
        raise
    except _DAMAGE:
        raise InputError(
            f"{path}: array {name} is damaged or cut short; get the file again"
        ) from None
    return np.frombuffer(raw, wanted).reshape(shape)


def _write_member(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    """Add one array, with nothing of the time or the system in its header."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    archive.writestr(info, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def _record(array: NDArray[Any]) -> ArrayRecord:
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return ArrayRecord(dtype=array.dtype.name, shape=array.shape, sha256=digest)


def _check_padding(path: Path, index: int, mask: NDArray[np.uint8] | None, layer: Layer) -> None:
    if mask is None or layer.neurons % 8 == 0:
        return
    padding = mask[:, -1] & (0xFF >> layer.neurons % 8)
    if padding.any():
        raise InputError(
            f"{path}: array mask/{index} has nonzero padding {int(padding.max()):#04x} after its"
            f" {layer.neurons} bits; the rest of the last byte must be zero"
        )


def _check_density(where: object, index: int, density: NDArray[np.float32], layer: Layer) -> None:
    if density.shape != (layer.c_out,):
        raise InputError(
            f"{where}: density/{index} must have the shape ({layer.c_out},), not {density.shape}"
        )
    if not np.all((density >= 0) & (density <= 1)):  # false for NaN, too
        raise InputError(
            f"{where}: density/{index} must be between 0 and 1 in every channel, not"
            f" {density.min()} to {density.max()}"
        )


def _short(names: Mapping[str, Any] | Sequence[str]) -> str:
    """The names, the middle of a long list left out."""
    listed = list(names)
    if not listed:
        return "nothing else"
    return ", ".join(listed if len(listed) <= 4 else [*listed[:2], "...", listed[-1]])
