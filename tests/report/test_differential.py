"""RTL against simulator, to the cycle, and integer model, to the bit, on random layers of small
machines; and no constant of the contract could be wrong unseen."""

from dataclasses import fields, replace

import pytest

from sinai.common.cases import random_case
from sinai.common.commands import commands
from sinai.common.contract import CONTRACT, Contract
from sinai.common.errors import MissingError
from sinai.common.machine import PRESETS, override
from sinai.common.operands import input_stream
from sinai.common.program import compile_layer
from sinai.hw.driver import play
from sinai.hw.verilated import VerilatedCore
from sinai.report.soak import check, command, shrink
from sinai.report.validation import compare
from sinai.sim.engine import simulate_layer

#: Cores: a preset, what is set in it, and a capacity at which most layers that fit have several
#: parts. The capacity is no matter of hardware, so each core runs with both accountings.
CORES = {
    "structured": ("structured-small", "", 10),
    "unstructured": ("unstructured-small", "", 5),
    "four columns": (
        "structured-small",
        "lanes=1 pses=2 columns=4 weight_words=2 collector=2 accumulators=16 rpu.hold=3 rpu.rows=8"
        " dma.bytes_per_cycle=32",
        8,
    ),
    "wide window": (
        "unstructured-small",
        "lanes=2 window=8 accumulators=16 rpu.hold=8 rpu.elements=32 dma.bytes_per_cycle=4",
        4,
    ),
}
#: Layers of each core and accounting; in a quarter of them the streams wait.
CASES = 80


def described(name: str, streams: bool):
    """The preset of a core, what is set in it, and the machine; with a capacity if `streams`."""
    preset, words, capacity = CORES[name]
    sets = [*words.split(), *([f"dma.capacity_kib={capacity}"] if streams else [])]
    return preset, sets, override(PRESETS[preset], sets)


@pytest.fixture(scope="module")
def cores():
    try:
        return {name: VerilatedCore(described(name, False)[2]) for name in CORES}
    except MissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("streams", [False, True], ids=["resident", "capacity"])
@pytest.mark.parametrize("name", CORES)
def test_counters_steps_and_bytes_are_equal(cores, name, streams):
    """Every counter, first and last cycle of every step, every byte, of random layers."""
    preset, sets, machine = described(name, streams)
    first = 1000 * (1 + 2 * list(CORES).index(name) + streams)
    counters = steps = outputs = split = waiting = 0
    for seed in range(first, first + CASES):
        case = random_case(seed, machine)
        found = check(cores[name], machine, case, CONTRACT)
        if found.problems:
            least, path = shrink(cores[name], machine, case, CONTRACT)
            pytest.fail(
                f"{command(preset, sets, seed, path)}\n{least}\n"
                + "\n".join(check(cores[name], machine, least, CONTRACT).problems[:5])
            )
        counters, steps = counters + found.counters, steps + found.steps
        outputs, split = outputs + found.bytes, split + (found.parts > 1)
        waiting += found.gaps
    assert counters >= 10 * CASES
    assert steps > CASES
    assert outputs > 100 * CASES
    assert waiting == CASES / 4
    assert split > CASES / 4 if streams else split == 0


@pytest.fixture(scope="module")
def recorded(cores):
    """What the RTL did on a few layers: (descriptors, operands, run, reference, program, mask)."""
    runs = []
    for name in CORES:
        for streams in (False, True):
            machine = described(name, streams)[2]
            for seed in range(90_000, 90_015):
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
            data.order,
            played,
            simulate_layer(program, mask, contract, made.order),
            [reference],
            contract,
        ).differences
        for made, data, played, reference, program, mask in recorded
    )


def test_the_contract_itself_agrees(recorded):
    assert not differs(recorded, CONTRACT)


#: A mask word holds whole rows of a window: its bits change by the widest window.
STEP = {"scan_bits": 8}


@pytest.mark.parametrize("sign", [1, -1], ids=["more", "less"])
@pytest.mark.parametrize("name", [field.name for field in fields(Contract)])
def test_every_constant_shows(recorded, name, sign):
    """Changed on the simulator's side alone, a constant of the contract is seen to differ."""
    value = getattr(CONTRACT, name) + sign * STEP.get(name, 1)
    assert differs(recorded, replace(CONTRACT, **{name: value}))
