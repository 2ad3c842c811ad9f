"""Where parts lie: what is placed is within the rows that the memories were checked to have."""

import numpy as np
import pytest

from sinai.common.allocation import Allocation, Bound
from sinai.common.cases import random_layer
from sinai.common.descriptor import target_memory
from sinai.common.errors import InputError
from sinai.common.machine import PRESETS, override
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme


@pytest.mark.parametrize("name", ["structured-small", "unstructured-small"])
def test_what_is_placed_is_within_the_need(name):
    """Of every memory and layer; of weights in two places, too."""
    machine = override(PRESETS[name], ["dma.capacity_kib=6"])
    scheme = Scheme.parse("unstructured:0.5")
    rng, twice = np.random.default_rng(0), 0
    for _ in range(60):
        try:
            program = compile_layer(random_layer(rng), machine, scheme)
        except InputError:  # too large
            continue
        bounds = [Bound(p.row, p.rows, p.channel, p.channels, p.image) for p in program.parts]
        found = Allocation(program.layer, machine, scheme, bounds)
        used = dict.fromkeys(found.need, 0)
        for place in found.places():
            for move in (*place.loads, *place.stores):
                memory = target_memory(move.target)
                last = move.base + (move.outer - 1) * move.stride + move.inner
                used[memory] = max(used[memory], last)
        assert all(used[memory] <= rows for memory, rows in found.need.items())
        twice += used["weights"] > found.weight_slot
    assert twice > 3
