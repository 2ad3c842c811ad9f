"""Random layers and machines: a seed names one, all layers fit, and simpler ones are simpler."""

import numpy as np
import pytest

from sinai.common.cases import accounted_case, random_case, random_machine, simpler, simplified
from sinai.common.commands import commands
from sinai.common.errors import InputError
from sinai.common.machine import PRESETS, override
from sinai.common.program import compile_layer

S, U = PRESETS["structured-small"], PRESETS["unstructured-small"]


def same(one, other):
    """Whether two cases are equal, numbers included."""
    a, b = one.operands, other.operands
    arrays = [(getattr(a, name), getattr(b, name)) for name in ("x", "xq", "residual", "mask")]
    arrays += [(a.order, b.order), (a.spec.weight, b.spec.weight), (a.spec.matrix, b.spec.matrix)]
    return (one.layer, one.scheme, one.theta) == (other.layer, other.scheme, other.theta) and all(
        (left is None and right is None) or np.array_equal(left, right) for left, right in arrays
    )


@pytest.mark.parametrize("machine", [S, U], ids=lambda machine: machine.kind)
def test_a_seed_names_a_case(machine):
    assert same(random_case(7, machine), random_case(7, machine))
    assert not same(random_case(7, machine), random_case(8, machine))


def test_layers_that_do_not_fit_are_drawn_again():
    """On a store of 4 KiB most layers are; the ones that come out all compile."""
    machine = override(S, ["dma.capacity_kib=4"])
    cases = [random_case(seed, machine) for seed in range(20)]
    assert sum(case.refused for case in cases) > 20
    for case in cases:
        compile_layer(case.layer, machine, case.scheme)


def test_a_machine_too_small_for_any_layer_is_refused():
    machine = override(S, ["lanes=8", "rpu.depth=4", "dma.capacity_kib=1"])
    with pytest.raises(InputError, match=r"structured-small: none of 200 random layers fits"):
        random_case(0, machine)


NUMBERS = ("c_in", "c_out", "kernel", "stride", "padding", "h_in", "w_in", "k")


def numbers(layer):
    return [*(getattr(layer, name) for name in NUMBERS), layer.residual, bool(layer.joined)]


@pytest.mark.parametrize("machine", [S, U], ids=lambda machine: machine.kind)
def test_simpler_cases_are_smaller_and_fit(machine):
    """Always the first one ends at a layer with a single number; scheme, theta and seed stay."""
    for seed in range(12):
        case = random_case(seed, machine)
        for _ in range(100):
            others = list(simpler(case, machine))
            if not others:
                break
            for other in others:
                pairs = list(zip(numbers(other.layer), numbers(case.layer), strict=True))
                assert all(less <= more for less, more in pairs)
                assert any(less < more for less, more in pairs)
                compile_layer(other.layer, machine, other.scheme)
                kept = (other.scheme, other.theta, other.seed)
                assert kept == (case.scheme, case.theta, case.seed)
                assert (other.operands.mask is None) == (case.operands.mask is None)
            case = others[0]
        layer = case.layer
        assert (layer.c_in, layer.c_out, layer.kernel, layer.stride) == (1, 1, 1, 1)
        assert (layer.h_in, layer.w_in, layer.residual, layer.joined) == (1, 1, False, "")


def test_a_path_leads_to_a_case():
    case = random_case(3, S)
    second = list(simpler(case, S))[1]
    third = list(simpler(second, S))[2]
    assert same(simplified(case, S, ()), case)
    assert same(simplified(case, S, (1, 2)), third)
    with pytest.raises(InputError, match=r"--simpler: seed 3.* has no simpler case 99"):
        simplified(case, S, (99,))


def test_random_machines_follow_from_their_number():
    machines = [random_machine(number) for number in range(60)]
    assert machines == [random_machine(number) for number in range(60)]
    for number, (preset, sets, machine) in enumerate(machines):
        assert machine == override(PRESETS[preset], sets)
        assert machine.unstructured == bool(number % 2)
        assert machine.vpus * machine.pses <= 32
    assert all(machine.resident for _, _, machine in machines)
    drawn = {name: {getattr(m, name) for _, _, m in machines} for name in ("lanes", "pses")}
    assert drawn == {"lanes": {1, 2, 4, 8}, "pses": {1, 2, 4, 8}}
    assert {m.window for _, _, m in machines if m.unstructured} == {1, 2, 4, 8, 16}
    assert {m.columns for _, _, m in machines if not m.unstructured} == {1, 2, 4, 8}
    assert {m.dma.bytes_per_cycle for _, _, m in machines} == {1, 2, 4, 8, 16, 32, 64}


def test_an_accounting_is_drawn_with_each_case():
    """Resident in a third of the cases, else capacities that hold the layers, in parts or whole;
    where hardly a layer fits a capacity, another is drawn."""
    made = [accounted_case(seed, U) for seed in range(60)]
    capacities = [machine.dma.capacity_kib for _, machine, _ in made]
    assert 10 < capacities.count(None) < 30
    assert len(set(capacities)) > 12
    parts = []
    for sets, machine, case in made:
        assert machine == override(U, sets)
        parts.append(len(compile_layer(case.layer, machine, case.scheme).parts))
        assert parts[-1] == 1 or not machine.resident
    assert sum(count > 1 for count in parts) > 6
    again = accounted_case(7, U)
    assert again[:2] == made[7][:2]
    assert same(again[2], made[7][2])


def test_masks_that_the_memory_does_not_hold_are_not_loaded():
    """Injected masks need room for all of a layer's, more than selected ones; a case says neither
    too little nor what no machine takes."""
    machine = override(U, ["lanes=8", "window=1", "memories.masks.capacity_kib=6"])
    loaded = []
    for seed in range(29_000_000, 29_000_040):
        case = random_case(seed, machine)
        for one in (case, *simpler(case, machine)):
            inject = one.operands.mask is not None
            program = compile_layer(one.layer, machine, one.scheme)
            commands(program, one.operands.spec, theta=one.theta, inject=inject)
            loaded.append(inject)
    assert 0.05 < sum(loaded) / len(loaded) < 0.5
