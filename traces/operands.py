"""The operands of a traced network: what its layers read, in the accelerator's numbers.

With them a trace can be run on the hardware bit for bit; docs/trace-format.md has the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ..common.errors import InputError
from ..common.integer import IntegerLayer
from ..common.layer import Layer

__all__ = ["LayerOperands", "Scales", "check", "forms", "from_arrays", "to_arrays"]

Shift = Annotated[int, Field(ge=0, le=62)]

#: Arrays that hold the numbers of an IntegerLayer, and their types.
_NUMBERS = {
    "weight": "int16",
    "bias": "int32",
    "multiplier": "int16",
    "matrix": "int8",
    "noise_weight": "int8",
    "noise_bias": "int32",
    "noise_multiplier": "int16",
    "gain": "int16",
    "offset": "int16",
}


class Scales(BaseModel):
    """What the manifest says of a layer's operands; shifts as in
    :class:`sinai.common.integer.IntegerLayer`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    shift: Shift
    matrix_shift: Shift
    noise_shift: Shift
    gain_shift: Shift
    quantise_shift: Shift
    relu: bool
    unsigned: bool


@dataclass(frozen=True, eq=False)
class LayerOperands:
    """Numbers of a layer and its inputs for each image.

    Parameters
    ----------
    spec : IntegerLayer
        Weights and parameters; its names and its scale are not kept.
    x, xq : int16 and int8 (images, H, W, C_in)
        Inputs.
    residual : int16 (images, P, C_out) or None
        What the layer adds, where it adds something.
    """

    spec: IntegerLayer
    x: NDArray[np.int16]
    xq: NDArray[np.int8]
    residual: NDArray[np.int16] | None

    @property
    def scales(self) -> Scales:
        return Scales(**{name: getattr(self.spec, name) for name in Scales.model_fields})


def forms(index: int, layer: Layer, images: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of the arrays of layer `index`, by name."""
    tap, channels = layer.projection == "tap", (layer.c_out,)
    shapes = {
        "weight": (layer.c_out, layer.d),
        "matrix": (layer.k // layer.taps, layer.c_in) if tap else (layer.k, layer.d),
        "noise_weight": (layer.c_out, layer.k),
    }
    made = {name: (dtype, shapes.get(name, channels)) for name, dtype in _NUMBERS.items()}
    made["x"] = ("int16", (images, layer.h_in, layer.w_in, layer.c_in))
    made["xq"] = ("int8", made["x"][1])
    if layer.residual:
        made["residual"] = ("int16", (images, layer.pixels, layer.c_out))
    return {f"{name}/{index}": form for name, form in made.items()}


def to_arrays(
    index: int, layer: Layer, images: int, operands: LayerOperands
) -> dict[str, NDArray[Any]]:
    """The arrays of layer `index`, by name.

    Raises
    ------
    InputError
        If one has another shape than the layer, or numbers that do not fit its type.
    """
    arrays = {}
    for name, (dtype, shape) in forms(index, layer, images).items():
        key = name.split("/")[0]
        values = getattr(operands.spec if key in _NUMBERS else operands, key)
        if values is None or np.shape(values) != shape:
            found = "nothing" if values is None else f"{np.shape(values)}"
            raise InputError(f"layer {layer.name}: {name} must have the shape {shape}, not {found}")
        arrays[name] = np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<"))
        if not np.array_equal(arrays[name], values):
            raise InputError(f"layer {layer.name}: {name} does not fit {dtype}")
        check(f"layer {layer.name}:", name, arrays[name], layer)
    return arrays


def from_arrays(
    index: int, layer: Layer, scales: Scales, arrays: Mapping[str, NDArray[Any]]
) -> LayerOperands:
    """What :func:`to_arrays` was made from, but for names and scale."""
    spec = IntegerLayer(
        layer=layer,
        source="",
        residual="",
        scale=1.0,
        **scales.model_dump(),
        **{name: arrays[f"{name}/{index}"] for name in _NUMBERS},
    )
    residual = arrays[f"residual/{index}"] if layer.residual else None
    return LayerOperands(spec, arrays[f"x/{index}"], arrays[f"xq/{index}"], residual)


def check(where: object, name: str, array: NDArray[Any], layer: Layer) -> None:
    """Hold numbers of fewer bits than their type to their range.

    Raises
    ------
    InputError
        If one is outside.
    """
    limits = {
        "matrix": (-1, 1),
        "noise_weight": (-8, 7),
        "xq": (0, 15) if layer.unsigned_input else (-8, 7),
    }
    low, high = limits.get(name.split("/")[0], (None, None))
    if low is not None and array.size and not (low <= array.min() and array.max() <= high):
        raise InputError(
            f"{where} {name} must be between {low} and {high}, not {array.min()} to {array.max()}"
        )
