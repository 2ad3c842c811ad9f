"""RTL against simulator, to the cycle; and no constant of the contract could be wrong unseen."""

from dataclasses import fields, replace

import pytest

from sinai.common.cases import random_case
from sinai.common.commands import commands
from sinai.common.contract import CONTRACT, Contract
from sinai.common.errors import MissingError
from sinai.common.machine import PRESETS
from sinai.common.operands import input_stream
from sinai.common.program import compile_layer
from sinai.hw.driver import play
from sinai.hw.verilated import VerilatedCore
from sinai.report.validation import compare, compare_layer
from sinai.sim.engine import simulate_layer

NAMES = ("structured-small", "unstructured-small")
CASES = 120


@pytest.fixture(scope="module")
def cores():
    try:
        return {name: VerilatedCore(PRESETS[name]) for name in NAMES}
    except MissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", NAMES)
def test_counters_steps_and_bytes_are_equal(cores, name):
    """Every counter, first and last cycle of every step, every byte, of random layers."""
    counters = steps = outputs = 0
    for seed in range(1000, 1000 + CASES):
        case = random_case(seed, PRESETS[name])
        found = compare_layer(
            cores[name],
            PRESETS[name],
            case.operands,
            case.scheme,
            case.theta,
            case.reference(),
        )
        assert not found.differences, (str(case), [str(each) for each in found.differences[:5]])
        counters, steps, outputs = (
            counters + found.counters,
            steps + found.steps,
            outputs + found.bytes,
        )
    assert counters >= 10 * CASES
    assert steps > CASES
    assert outputs > 100 * CASES


def test_waiting_streams_change_no_cycle_of_a_compute(cores):
    for seed in range(2000, 2020):
        for name in NAMES:
            machine, case = PRESETS[name], random_case(seed, PRESETS[name])
            found = compare_layer(
                cores[name],
                machine,
                case.operands,
                case.scheme,
                case.theta,
                case.reference(),
                gaps=(0.4, 0.6),
                seed=seed,
            )
            assert not found.differences, (str(case), [str(each) for each in found.differences[:5]])


@pytest.fixture(scope="module")
def recorded(cores):
    """What the RTL did on a few layers: (descriptors, operands, run, reference, program, mask)."""
    runs = []
    for name in NAMES:
        machine = PRESETS[name]
        for seed in range(3000, 3030):
            case = random_case(seed, machine)
            data, scheme = case.operands, case.scheme
            program = compile_layer(case.layer, machine, scheme)
            inject = data.mask is not None and not scheme.dense
            made = commands(program, data.spec, theta=case.theta, inject=inject)
            reference = case.reference()
            mask = reference.mask[0]
            mask = mask if data.order is None else mask[:, data.order]
            mask = None if scheme.dense or scheme.structured else mask
            played = play(cores[name], made, input_stream(made, data))
            runs.append((made, data, played, reference, program, mask))
    return runs


def differs(recorded, contract: Contract) -> bool:
    return any(
        compare(
            made,
            data,
            played,
            simulate_layer(program, mask, contract, made.order),
            reference,
            contract,
        ).differences
        for made, data, played, reference, program, mask in recorded
    )


def test_the_contract_itself_agrees(recorded):
    assert not differs(recorded, CONTRACT)


#: What resident layers of small machines cannot show: the fetch of a descriptor counts only where
#: parts stream, and the bits of a mask word only where rows fill more than one.
_ELSEWHERE = {"fetch", "scan_bits"}


@pytest.mark.parametrize(
    "name", [field.name for field in fields(Contract) if field.name not in _ELSEWHERE]
)
def test_every_constant_shows(recorded, name):
    """Changed on the simulator's side alone, a constant of the contract is seen to differ."""
    assert differs(recorded, replace(CONTRACT, **{name: getattr(CONTRACT, name) + 1}))
