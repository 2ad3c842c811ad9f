"""The map of the memories: sizes against the RTL's, places against the images that are loaded."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from sinai.common.cases import operands_of, random_spec
from sinai.common.commands import commands
from sinai.common.descriptor import (
    compute_fields,
    memory_depth,
    target_memory,
    transfer_row_bits,
)
from sinai.common.layer import Layer
from sinai.common.layout import rows_of
from sinai.common.machine import PRESETS, override
from sinai.common.operands import Operands, load_stream
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme
from sinai.hw.engine import banks
from sinai.hw.memory_map import INDICES, PLACES, RAMS, SIZES, evaluate, shape, sizes

S, U = PRESETS["structured-small"], PRESETS["unstructured-small"]
MACHINES = {
    "S": S,
    "S beta 2": override(S, ["weight_words=2", "columns=4"]),
    "S beta 8": override(S, ["weight_words=8", "lanes=1", "rpu.port_bits=8"]),
    "U": U,
    "U window 16": override(U, ["window=16", "lanes=2"]),
    "U wide": override(U, ["pses=16", "rpu.rows=8", "rpu.elements=128"]),
}


def mine(entries, machine):
    return [each for each in entries if each.kind in (None, machine.kind)]


@pytest.mark.parametrize("machine", [*PRESETS.values(), *MACHINES.values()], ids=lambda m: m.name)
def test_sizes_are_those_of_the_banks(machine):
    found = {ram.name: shape(ram, machine)[:3] for ram in mine(RAMS, machine) if ram.memory}
    wanted = {name: (*bank, memory_depth(machine, name)) for name, bank in banks(machine).items()}
    assert found == wanted | {"sums": wanted["residual"]}


@pytest.mark.parametrize("machine", [S, U], ids=lambda m: m.kind)
def test_every_memory_of_the_verilog_is_there(machine, written):
    """As often as it is there, with the enables it has."""
    data = json.loads((written(machine.name, "blackbox") / "memories.json").read_text())
    names = ("width", "depth", "granularity")
    wanted = Counter()
    for memory in data["designs"]["sinai_core"]:
        wanted[tuple(memory[name] for name in names)] += memory["instances"]
    found = Counter()
    for ram in mine(RAMS, machine):
        count, *size = shape(ram, machine)
        found[tuple(size)] += count
    assert found == wanted


def memories_of(machine, made, operands):
    """Rows of the memories, by name and address, once all LOADs are done."""
    found = {}
    for transfer in (each for each in made.transfers if each.loads):
        move, name = transfer.move, target_memory(transfer.move.target)
        image = load_stream(made, transfer, operands)
        rows = rows_of(image, transfer_row_bits(machine, move.target), move.rows)
        for number, row in enumerate(rows):
            run, at = divmod(number, move.inner)
            found[name, move.base + run * move.stride + at] = row
    return found


@pytest.mark.parametrize("projection", ["patch", "tap"])
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_every_place_is_where_the_loads_put_it(machine, projection):
    """Values of a layer that divides nothing, drawn at random, read back by the formulas alone."""
    layer = Layer(
        name="layer", c_in=35, c_out=21, kernel=3, stride=2, padding=1, h_in=7, w_in=5, k=144,
        projection=projection, residual=True,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    spec = random_spec(rng, layer)
    drawn = operands_of(rng, spec, machine)
    mask = rng.random((layer.pixels, layer.c_out)) < 0.5
    operands = Operands(spec=spec, x=drawn.x, xq=drawn.xq, residual=drawn.residual, mask=mask)
    program = compile_layer(layer, machine, Scheme.parse("unstructured:0.5"))
    made = commands(program, spec, theta=None, inject=True)
    [fields], memory = made.computes, memories_of(machine, made, operands)
    names = sizes(machine) | fields
    width = {ram.name: shape(ram, machine)[1] for ram in mine(RAMS, machine)}
    w, word = machine.pses, machine.rpu.word
    parameters = {
        "M": spec.multiplier,
        "b": spec.bias,
        "M~": spec.noise_multiplier,
        "b~": spec.noise_bias,
        "a": spec.gain,
        "c": spec.offset,
    }

    def word_of(depth, size):
        """Word, tap by tap, and element in it, of place `depth` of a dot product."""
        tap, channel = divmod(depth, layer.c_in)
        return tap * -(-layer.c_in // size) + channel // size, channel % size

    def pick(values):
        """A value of a random place: that place, and the value."""
        at = tuple(int(rng.integers(size)) for size in values.shape)
        return *at, int(values[at])

    def case(value):
        """Indices of a random value of this name, and the value."""
        if value == "W":
            c, depth, wanted = pick(spec.weight)
            b, e = word_of(depth, w)
            return dict(c=c, b=b, e=e), wanted
        if value == "W~":
            c, n, wanted = pick(spec.noise_weight)
            return dict(c=c, b=n // (16 * w), e=n % (16 * w)), wanted
        if value in ("x", "x^Q"):
            size = w if value == "x" else word
            y, x, channel, wanted = pick(drawn.x if value == "x" else drawn.xq)
            return dict(n=y * layer.w_in + x, u=channel // size, e=channel % size), wanted
        if value == "P":
            r, depth, wanted = pick(spec.matrix)
            b, e = word_of(depth, word)
            return dict(r=r, e=b * word + e), wanted
        if value in parameters:
            c, wanted = pick(parameters[value])
            return dict(c=c), wanted
        n, c, wanted = pick(drawn.residual if value == "residual" else mask)
        if value == "residual":
            return dict(c=c, n=n), wanted
        depths, batch = program.blocks[0].sizes, n // machine.columns
        firsts = np.cumsum([0, *depths])
        i = int(np.searchsorted(firsts, batch, "right")) - 1
        s = int(firsts[i])
        return dict(c=c, i=i, m=n - s * machine.columns, s=s, d=depths[i]), wanted

    for place in mine(PLACES, machine):
        for _ in range(80):
            indices, wanted = case(place.value)
            known = names | indices
            bank, row, bit = (evaluate(text, known) for text in (place.bank, place.row, place.bit))
            found = memory[place.memory, row] >> bank * width[place.memory] + bit
            assert (found - wanted) % (1 << place.bits) == 0, (place.value, indices)


def test_both_kinds_have_all_values():
    values = [[place.value for place in mine(PLACES, machine)] for machine in (S, U)]
    assert sorted(values[0]) == sorted(values[1])
    assert len(set(values[0])) == len(values[0]) == 13


def test_names_of_formulas_are_explained():
    fields = {field.name for field in compute_fields(S)}
    formulas = [(ram.banks, ram.width, ram.enable, ram.depth or "1") for ram in RAMS]
    formulas += [(place.bank, place.row, place.bit) for place in PLACES]
    used = set(re.findall(r"[A-Za-z_]\w*", " ".join(text for texts in formulas for text in texts)))
    assert used <= {*SIZES, *INDICES, *fields, "min", "max", "width"}
    assert {*SIZES, *INDICES} <= used
