"""What a layer reads and writes, as the streams of its transfers.

A batch has operands for each of its images, of one `spec` and `order`.
Channels of `Operands` and `Outputs` are in the network's order. A part computes channels
order[part.channel] and on: on unstructured machines the order places channels on lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import layout
from .batch import stack_inputs
from .commands import Commands, Transfer
from .descriptor import Target
from .errors import InputError
from .geometry import x_feed, xq_feed
from .integer import IntegerLayer
from .layer import Layer
from .program import Program
from .scheme import GROUP

__all__ = [
    "Operands",
    "Outputs",
    "input_stream",
    "load_stream",
    "read_batch",
    "read_outputs",
]

Ints = NDArray[np.integer]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Operands:
    """What one layer reads, for one image, channels in the network's order.

    Parameters
    ----------
    spec : IntegerLayer
        Weights and parameters.
    x, xq : int16 and int8 (H, W, C_in)
        Inputs; `xq` may be None for a dense layer.
    residual : int16 (P, C_out) or None
        What the layer adds.
    mask : bool (P, C_out) or None
        Essential neurons to inject.
    order : int (C_out,) or None
        Placement: position j computes channel order[j]; None is the natural order.
    """

    spec: IntegerLayer
    x: Ints
    xq: Ints | None = None
    residual: Ints | None = None
    mask: NDArray[np.bool_] | None = None
    order: NDArray[np.integer] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Outputs:
    """What one layer stored, in the network's order of channels; None where it stored nothing.

    Parameters
    ----------
    y, yq, s : int16, int8, int16 (P, C_out)
        Outputs.
    mask : bool (P, C_out)
        Essential neurons.
    """

    y: Ints | None
    yq: Ints | None
    s: Ints | None
    mask: NDArray[np.bool_] | None


def input_stream(made: Commands, operands: Operands | Sequence[Operands]) -> Bytes:
    """The streams of all LOADs, in order: what the accelerator is fed for an image or a batch.

    Raises
    ------
    InputError
        As :func:`load_stream`.
    """
    loads = [load_stream(made, each, operands) for each in made.transfers if each.loads]
    return np.concatenate(loads)


def load_stream(
    made: Commands, transfer: Transfer, operands: Operands | Sequence[Operands]
) -> Bytes:
    """The stream of a LOAD, as bytes of whole stream words, low byte first.

    Raises
    ------
    InputError
        If there are not as many operands as images, one is missing or has another shape than the
        layer, or injected masks have more essential neurons than the blocks were cut for.
    """
    image = _image(made.program, transfer.part, transfer.move.target, operands)
    width = made.program.machine.dma.bytes_per_cycle
    stream = np.zeros(transfer.move.words * width, dtype=np.uint8)
    stream[: image.size] = image
    return stream


def _image(
    program: Program, index: int, target: Target, operands: Operands | Sequence[Operands]
) -> Bytes:
    layer, machine, part = program.layer, program.machine, program.parts[index]
    images = _together(program, part.image, operands)
    spec, order = images[0].spec, images[0].order
    channels = _order(layer, order)[part.channel : part.channel + part.channels]
    band = slice(part.row * layer.w_out, (part.row + part.rows) * layer.w_out)
    match target:
        case Target.WEIGHTS:
            image = layout.whole_weights(machine, layer, spec.weight[channels])
            if program.scheme.dense:
                return image
            rough = layout.rough_weights(machine, layer, spec.noise_weight[channels])
            return np.concatenate((image, rough))
        case Target.PARAMETERS:
            return layout.parameters(machine, spec, channels)
        case Target.X:
            x = _inputs(program, "x", [each.x for each in images], spec.layer)
            feed = x_feed(layer, machine, part.row, part.rows)
            return layout.x_image(machine, layer, feed, x.astype("<i2"))
        case Target.XQ:
            xq = _inputs(program, "xq", [each.xq for each in images], spec.layer)
            feed = xq_feed(layer, machine, part.row, part.rows)
            return layout.xq_image(machine, layer, feed, xq.astype(np.int8))
        case Target.PROJECTION:
            return layout.projection(machine, layer, spec.matrix)
    if target is Target.RESIDUAL:
        residual = _of_outputs(spec.layer, "residual", [each.residual for each in images])
        return layout.value_image(machine, residual[band][:, channels].astype("<i2"))
    mask = _of_outputs(spec.layer, "mask", [each.mask for each in images])
    mask = mask[band][:, channels].astype(bool)
    if not machine.unstructured:
        _check_accumulators(program, index, mask)
    return layout.masks(program, index, mask)


def _together(
    program: Program, number: int, operands: Operands | Sequence[Operands]
) -> Sequence[Operands]:
    """Of the operands of a batch, those of the images that are computed as image `number`."""
    operands = [operands] if isinstance(operands, Operands) else operands
    if len(operands) != program.images:
        raise InputError(
            f"layer {program.layer.name}: operands must be those of {program.images} image(s), not"
            f" of {len(operands)}"
        )
    first = number * program.together
    return operands[first : first + program.together]


def _inputs(program: Program, name: str, values: Sequence[NDArray | None], layer: Layer) -> Ints:
    """Inputs as the hardware sees them, of the images that it computes as one."""
    shape = (layer.h_in, layer.w_in, layer.c_in)
    checked = [_checked(layer, name, each, shape) for each in values]
    return checked[0] if program.together == 1 else stack_inputs(layer, checked)


def _of_outputs(layer: Layer, name: str, values: Sequence[NDArray | None]) -> NDArray:
    """(P, C_out) values of each image, an image below the other."""
    shape = (layer.pixels, layer.c_out)
    return np.concatenate([_checked(layer, name, each, shape) for each in values])


def read_outputs(
    made: Commands, stream: bytes | Bytes, order: NDArray[np.integer] | None = None
) -> Outputs:
    """:func:`read_batch` of a single image."""
    (one,) = read_batch(made, stream, order)
    return one


def read_batch(
    made: Commands, stream: bytes | Bytes, order: NDArray[np.integer] | None = None
) -> tuple[Outputs, ...]:
    """The results of a layer, of each image, from the streams of its STOREs, one after another.

    `order` is the placement of the operands.

    Raises
    ------
    InputError
        If the stream has another length than the STOREs.
    """
    program = made.program
    layer, machine = program.layer, program.machine
    order = _order(layer, order)
    types = {
        Target.STORE_Y: np.int16,
        Target.STORE_YQ: np.int8,
        Target.STORE_SUM: np.int16,
        Target.STORE_MASKS: np.bool_,
    }
    found: dict[Target, NDArray] = {}
    stores = [each for each in made.transfers if not each.loads]
    data = np.frombuffer(stream, dtype=np.uint8)
    width = machine.dma.bytes_per_cycle
    total = width * sum(each.move.words for each in stores)
    if data.size != total:
        raise InputError(f"layer {layer.name}: its outputs take {total} bytes, not {data.size}")
    for transfer in stores:
        target, part = transfer.move.target, program.parts[transfer.part]
        mine, data = np.split(data, [transfer.move.words * width])
        if target is Target.STORE_MASKS:
            values = layout.read_masks(program, transfer.part, mine)
        elif target is Target.STORE_YQ:
            values = layout.read_values(
                machine, layer, part, layout.nibbles(mine, transfer.unsigned)
            )
        else:
            whole = mine[: mine.size // 2 * 2].view("<i2")
            values = layout.read_values(machine, layer, part, whole)
        size = (program.images // program.together, layer.pixels, layer.c_out)
        into = found.setdefault(target, np.zeros(size, types[target]))
        band = slice(part.row * layer.w_out, (part.row + part.rows) * layer.w_out)
        into[part.image][band, order[part.channel : part.channel + part.channels]] = values
    of_image = {
        target: values.reshape(program.images, -1, layer.c_out) for target, values in found.items()
    }
    kinds = {
        "y": Target.STORE_Y,
        "yq": Target.STORE_YQ,
        "s": Target.STORE_SUM,
        "mask": Target.STORE_MASKS,
    }
    return tuple(
        Outputs(
            **{
                name: of_image[target][image] if target in of_image else None
                for name, target in kinds.items()
            }
        )
        for image in range(program.images)
    )


def _order(layer: Layer, order: NDArray[np.integer] | None) -> NDArray[np.integer]:
    if order is None:
        return np.arange(layer.c_out)
    if sorted(np.asarray(order).tolist()) != list(range(layer.c_out)):
        raise InputError(
            f"layer {layer.name}: order must hold each channel 0 to {layer.c_out - 1} once"
        )
    return np.asarray(order)


def _checked(layer: Layer, name: str, values: NDArray | None, shape: tuple[int, ...]) -> NDArray:
    if values is None or np.shape(values) != shape:
        found = "nothing" if values is None else f"an array of shape {np.shape(values)}"
        raise InputError(f"layer {layer.name}: {name} must have the shape {shape}, not {found}")
    return np.asarray(values)


def _check_accumulators(program: Program, index: int, mask: NDArray[np.bool_]) -> None:
    """A batch takes an accumulator for each essential channel of its fullest group."""
    allowed = program.machine.accumulators // program.blocks[index].deepest
    starts = np.arange(0, mask.shape[1], GROUP)
    fullest = int(np.add.reduceat(mask.astype(np.int64), starts, axis=1).max())
    if fullest > allowed:
        raise InputError(
            f"layer {program.layer.name}: a mask has {fullest} essential channels in a group of"
            f" {GROUP}, and scheme {program.scheme} has room for {allowed}; give masks of the"
            " scheme"
        )
