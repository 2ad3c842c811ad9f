"""From a compiled layer to the descriptors that the host writes: transfers and computes.

The only place where the fields of a compute descriptor are worked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .allocation import Move, groups_of, move, places, row_bits
from .blocks import Pieces, p_batches
from .descriptor import (
    COMPUTE,
    TRANSFER,
    Flag,
    Target,
    compute_fields,
    memory_depth,
    memory_row_bits,
    pack,
    transfer_fields,
)
from .errors import InputError
from .geometry import Feed, element_tiles, is_tap, p_rows, row_tiles, x_feed, xq_feed
from .integer import IntegerLayer
from .layer import ceil_div
from .order import Order, Queued, order
from .program import Program, mask_rows

__all__ = ["Commands", "Transfer", "commands"]


@dataclass(frozen=True)
class Transfer:
    """A LOAD or STORE of part `part`, to start when `wait` computes are done."""

    part: int
    move: Move
    wait: int
    quantise_shift: int
    unsigned: bool

    @property
    def loads(self) -> bool:
        return self.move.target < Target.STORE_Y

    @property
    def fields(self) -> dict[str, int]:
        """Values for :func:`sinai.common.descriptor.pack`."""
        return {
            "wait": self.wait,
            "target": int(self.move.target),
            "base": self.move.base,
            "inner": self.move.inner,
            "outer": self.move.outer,
            "stride": self.move.stride,
            "quantise_shift": self.quantise_shift,
            "unsigned": int(self.unsigned),
        }


@dataclass(frozen=True)
class Commands:
    """The two queues of a layer.

    Parameters
    ----------
    program : Program
        What they run; its machine and layer give the meaning of the fields.
    transfers : tuple of Transfer
        In order.
    computes : tuple of dict
        Fields of a compute descriptor for each part, in order.
    inject : bool
        Whether the masks are loaded rather than selected.
    """

    program: Program
    transfers: tuple[Transfer, ...]
    computes: tuple[dict[str, int], ...]
    inject: bool

    @property
    def order(self) -> Order:
        """What the simulator needs to know of the queues."""
        return Order(
            tuple(Queued(each.part, each.move, each.wait) for each in self.transfers),
            tuple(each["wait"] for each in self.computes),
        )

    def transfer_words(self) -> list[NDArray[np.uint32]]:
        """Descriptors of the transfers."""
        fields = transfer_fields(self.program.machine)
        return [pack(TRANSFER, fields, each.fields) for each in self.transfers]

    def compute_words(self) -> list[NDArray[np.uint32]]:
        """Descriptors of the computes."""
        fields = compute_fields(self.program.machine)
        return [pack(COMPUTE, fields, each) for each in self.computes]


def commands(
    program: Program,
    spec: IntegerLayer,
    *,
    theta: int | Sequence[int] | None = None,
    inject: bool = False,
    store_sums: bool = False,
    store_masks: bool = False,
) -> Commands:
    """Return the descriptors of a layer.

    Parameters
    ----------
    program : Program
        Of `spec.layer`.
    spec : IntegerLayer
        Shifts and flags; the operands are not looked at.
    theta : int or sequence of int, optional
        Threshold, -32768 (full) to 32768 (empty), of all images or of each; needed for an
        unstructured scheme unless `inject`.
    inject : bool
        Load the essential neurons instead of selecting them.
    store_sums, store_masks : bool
        Store s, which only a layer with `joined` keeps, and the essential neurons, too.

    Raises
    ------
    InputError
        If theta is missing or out of range, the masks do not fit their memory, or the layer is
        larger than a descriptor can say.
    """
    layer = program.layer
    if inject and store_masks:
        raise InputError(f"layer {layer.name}: injected masks are the host's, not to be stored")
    if program.scheme.dense and (inject or store_masks):
        raise InputError(f"layer {layer.name}: a dense layer has no masks to load or store")
    if store_sums and not layer.joined:
        raise InputError(
            f"layer {layer.name}: keeps no sums to store; only layers with joined set do"
        )
    thetas = _thetas(program, theta, inject)
    masks = _mask_moves(program, inject or store_masks)
    loads, stores = [], []
    for part, each in enumerate(program.parts):
        more = []
        if store_sums:
            like = each.place.stores[0]
            more.append(like._replace(target=Target.STORE_SUM, base=each.place.sums))
        if store_masks:
            more.append(masks[part]._replace(target=Target.STORE_MASKS))
        stores.append(more)
        loads.append([masks[part]._replace(target=Target.MASKS)] if inject else [])
    queue = order(program.parts, places(program.machine), loads=loads, stores=stores)
    computes = tuple(
        _compute(
            program,
            spec,
            index,
            wait=queue.needed[index],
            theta=thetas[program.parts[index].image],
            inject=inject,
            mask_base=masks[index].base if masks else 0,
        )
        for index in range(len(program.parts))
    )
    transfers = tuple(
        Transfer(*queued, spec.quantise_shift, spec.unsigned) for queued in queue.transfers
    )
    made = Commands(program, transfers, computes, inject)
    _check(made)
    return made


def _thetas(program: Program, theta: int | Sequence[int] | None, inject: bool) -> list[int]:
    """Threshold of each image."""
    if program.scheme.kind != "unstructured" or inject:
        return [0] * program.images
    thetas = [*theta] if isinstance(theta, Sequence) else [theta] * program.images
    if len(thetas) != program.images:
        raise InputError(
            f"layer {program.layer.name}: theta must be one value or {program.images}, one an"
            f" image, not {len(thetas)}"
        )
    for each in thetas:
        if each is None or not -(1 << 15) <= each <= 1 << 15:
            raise InputError(
                f"layer {program.layer.name}: theta must be between -32768 and 32768 for scheme"
                f" {program.scheme}, not {each}"
            )
    return thetas


def _mask_moves(program: Program, whole: bool) -> list[Move]:
    """Place of the masks of each part where all of a part's are kept; empty if none are."""
    if not whole:
        return []
    machine = program.machine
    rows = [
        mask_rows(machine, part.channels, blocks.deepest) * blocks.count
        if machine.unstructured
        else groups_of(machine, part.channels) * sum(blocks.sizes)
        for part, blocks in zip(program.parts, program.blocks, strict=True)
    ]
    slot, copies = max(rows), min(places(machine), len(rows))
    need = slot * copies
    if need > memory_depth(machine, "masks"):
        size = ceil_div(need * memory_row_bits(machine, "masks"), 8192)
        raise InputError(
            f"{machine.name}: layer {program.layer.name} needs {size} KiB of the masks memory for"
            f" all of its masks, which holds {machine.memories.masks.capacity_kib}; raise"
            " memories.masks.capacity_kib"
        )
    return [
        move(machine, Target.MASKS, index % copies * slot, count)
        for index, count in enumerate(rows)
    ]


def _flags(program: Program, spec: IntegerLayer, index: int, inject: bool) -> Flag:
    layer, scheme, part = program.layer, program.scheme, program.parts[index]
    rough = not scheme.dense
    chosen = {
        Flag.APPROXIMATE: rough,
        Flag.EXACT: program.computes_exactly,
        Flag.RANK: scheme.structured and not inject,
        Flag.INJECT: inject,
        Flag.RESIDUAL: layer.residual,
        Flag.STORE_SUM: bool(layer.joined),
        Flag.RELU: spec.relu,
        Flag.PROJECT: rough and part.projects,
        Flag.TAP: rough and is_tap(layer),
        Flag.UNSIGNED: layer.unsigned_input,
        Flag.RELEASE: rough and part.releases,
    }
    flags = Flag(0)
    for flag, on in chosen.items():
        flags |= flag if on else Flag(0)
    return flags


def _compute(
    program: Program,
    spec: IntegerLayer,
    index: int,
    *,
    wait: int,
    theta: int,
    inject: bool,
    mask_base: int,
) -> dict[str, int]:
    layer, machine, scheme = program.layer, program.machine, program.scheme
    part, blocks = program.parts[index], program.blocks[index]
    place, rough = part.place, not scheme.dense
    x = x_feed(layer, machine, part.row, part.rows)
    per_row, whole_rows = machine.columns % layer.w_out, machine.columns // layer.w_out
    none = Pieces(0, 0, 0)
    sub = program.approximate_blocks(blocks.depth) if rough else none
    deep = program.approximate_blocks(blocks.depth + 1) if rough and blocks.more else none
    return {
        "wait": wait,
        "flags": int(_flags(program, spec, index, inject)),
        "pixels": part.rows * layer.w_out,
        "channels": part.channels,
        "w_out": layer.w_out,
        "batches": sum(blocks.sizes),
        "groups": groups_of(machine, part.channels),
        "tiles": blocks.count,
        "tile_depth": blocks.depth,
        "tile_more": blocks.more,
        "sub_count": sub.count,
        "sub_depth": sub.depth,
        "sub_more": sub.more,
        "sub_count_deep": deep.count,
        "sub_depth_deep": deep.depth,
        "sub_more_deep": deep.more,
        "kernel": x.kernel,
        "stride": x.stride,
        "w_in": x.w_in,
        "h_in": x.h_in,
        "row0": x.row0,
        "column0": x.column0,
        "linear0": x.row0 * x.w_in + x.column0,
        "step_columns": per_row,
        "step_column": x.stride * per_row,
        "step_row": x.stride * whole_rows,
        "step_linear": x.stride * whole_rows * x.w_in + x.stride * per_row,
        "wrap_column": x.stride * layer.w_out,
        "wrap_linear": x.stride * (x.w_in - layer.w_out),
        "x_words": x.words,
        "x_plane": ceil_div(x.pixels, machine.columns),
        "x_base": place.x,
        "beats": x.beats,
        "weights_base": place.weights,
        "rough_beats": program.approximate_beats if rough else 0,
        "rough_base": place.rough,
        "essential": scheme.essential_of_group if scheme.structured else 0,
        "theta": theta,
        "mask_base": mask_base,
        "mask_rows": (
            mask_rows(machine, part.channels, blocks.deepest)
            if machine.unstructured and not program.scheme.dense
            else 0
        ),
        "row_bits": row_bits(machine, part.channels),
        "parameters_base": place.parameters,
        "y_base": place.y,
        "residual_base": place.residual,
        "sum_base": place.sums,
        "shift": spec.shift,
        "rough_shift": spec.noise_shift if rough else 0,
        "gain_shift": spec.gain_shift,
        **_projection(program, spec, index),
    }


def _projection(program: Program, spec: IntegerLayer, index: int) -> dict[str, int]:
    """Fields of the projection unit; the least legal ones where it has nothing to do."""
    layer, machine, part = program.layer, program.machine, program.parts[index]
    if program.scheme.dense:
        feed, rows, along_rows, along_words, batches = (
            Feed(1, 1, 1, 1, 0, 0, 1, 0, False),
            1,
            1,
            1,
            1,
        )
    else:
        feed = xq_feed(layer, machine, part.row, part.rows)
        rows, along_rows = p_rows(layer), row_tiles(layer, machine)
        along_words, batches = element_tiles(layer, machine), p_batches(layer, machine)
    return {
        "q_kernel": feed.kernel,
        "q_stride": feed.stride,
        "q_w_in": feed.w_in,
        "q_h_in": feed.h_in,
        "q_row0": feed.row0,
        "q_column0": feed.column0,
        "q_words": feed.words,
        "q_plane": feed.pixels,
        "q_base": part.place.xq,
        "p_rows": rows,
        "p_row_tiles": along_rows,
        "p_element_tiles": along_words,
        "p_base": part.place.projection,
        "p_shift": 0 if program.scheme.dense else spec.matrix_shift,
        "p_room": batches,
    }


def _check(made: Commands) -> None:
    """Every field in the range that the hardware takes."""
    machine = made.program.machine
    queues = [
        (compute_fields(machine), made.computes),
        (transfer_fields(machine), [each.fields for each in made.transfers]),
    ]
    for fields, values in queues:
        for each in values:
            for field in fields:
                if not field.low <= each[field.name] <= field.high:
                    raise InputError(
                        f"layer {made.program.layer.name}: {field.name} ({field.meaning}) must be"
                        f" between {field.low} and {field.high} on {machine.name}, not"
                        f" {each[field.name]}; the layer is too large for one descriptor"
                    )
