"""Machine descriptions: presets, YAML in and out, each refusal."""

import re

import pytest
import yaml

from sinai.common.errors import InputError
from sinai.common.machine import PRESETS, Machine, Rpu, load_machine, override
from sinai.sim.counts import MEMORIES

SMALL = {"name": "mine", "kind": "structured", "lanes": 2, "pses": 4}


@pytest.fixture
def described(tmp_path):
    """Write a description as YAML, return the name of the file."""

    def write(description):
        path = tmp_path / "mine.yaml"
        path.write_text(description if isinstance(description, str) else yaml.dump(description))
        return str(path)

    return write


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_by_name_and_survive_yaml(name, described):
    machine = load_machine(name)
    assert machine.name == name
    assert load_machine(described(machine.to_yaml())) == machine


@pytest.mark.parametrize(
    ("name", "multipliers", "vpus", "side_by_side"),
    [
        ("unstructured", 8192, 16, 16),
        ("structured", 8192, 32, 32),
        ("structured-expanded", 16384, 64, 32),
    ],
)
def test_published_machines(name, multipliers, vpus, side_by_side):
    """16 lanes x 32 PSEs x 16 = 4 x 8 x 16 x 16 = 8192 multipliers; the expanded one has twice."""
    machine = PRESETS[name]
    assert machine.multipliers == multipliers
    assert machine.vpus == vpus
    assert machine.channels_side_by_side == side_by_side
    assert machine.clock_hz == pytest.approx(500e6)
    assert machine.resident


@pytest.mark.parametrize(
    ("name", "memory", "bits"),
    [
        ("unstructured", "weights", 512),
        ("unstructured", "p", 2048),
        ("unstructured", "y", 64),
        ("structured", "weights", 256),
        ("unstructured", "masks", 64),
        ("structured", "y", 64),
        ("structured", "residual", 64),
        ("structured", "masks", 256),
        ("structured-expanded", "masks", 512),
        ("unstructured", "xq", 256),
        ("structured", "projection", 2048),
    ],
)
def test_word_bits_by_hand(name, memory, bits):
    """w words of 16 bit; 16 w nibbles; four values of 16 bit; 64 mask bits a lane, or eight of each
    of V T vector units; 64 nibbles of x^Q."""
    assert PRESETS[name].word_bits(memory) == bits


@pytest.mark.parametrize("name", PRESETS)
def test_every_memory_has_a_capacity_and_a_word(name):
    machine = PRESETS[name]
    for memory in MEMORIES:
        assert machine.word_bits(memory) > 0
        assert getattr(machine.memories, memory).capacity_kib > 0


def test_projection_tile_loads_through_its_port():
    """32 rows x 512 entries of 2 bit = 32768 bit: 16 cycles of 2048 bit, 32 of 1024."""
    assert Rpu().load_cycles == 16
    assert Rpu(port_bits=1024).load_cycles == 32


def test_words_of_the_projection_unit_are_64_nibbles_or_a_tile():
    assert (Rpu().word, Rpu(elements=32, port_bits=64).word) == (64, 32)


def test_defaults_fill_a_short_description(described):
    machine = load_machine(described(SMALL))
    assert (machine.columns, machine.accumulators, machine.clock_ns) == (1, 32, 2.0)


def test_whole_nanoseconds_are_a_clock(described):
    assert load_machine(described(SMALL | {"clock_ns": 3})).clock_ns == 3


def test_unknown_preset_lists_the_presets():
    with pytest.raises(InputError, match="machine 'strctured': no such preset or file") as error:
        load_machine("strctured")
    assert all(name in str(error.value) for name in PRESETS)


def test_missing_file(tmp_path):
    path = str(tmp_path / "none.yaml")
    with pytest.raises(InputError, match=re.escape(path) + r".*No such file"):
        load_machine(path)


def test_directory_given_as_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\); give a preset or"):
        load_machine(str(tmp_path))


def test_binary_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match=r"mine\.yaml: cannot be read \(not UTF-8 text\)"):
        load_machine(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lanes: [1", r"mine\.yaml: line \d+: not valid YAML"),
        ("lanes: \x07", r"mine\.yaml: not valid YAML"),
        ("- 1\n- 2\n", r"mine\.yaml: must be a mapping of keys .* not \[1, 2\]"),
        ("", r"mine\.yaml: must be a mapping of keys .* not None"),
    ],
)
def test_file_that_is_no_description(text, message, described):
    with pytest.raises(InputError, match=message):
        load_machine(described(text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lane": 4}, r"unknown key lane \(value 4\); known keys are name, kind, lanes"),
        ({"rpu": {"row": 4}}, r"unknown key rpu\.row \(value 4\); known keys are rows, elements"),
        (
            {"memories": {"x": {"capacity_kib": 1, "macro_kib": 1, "banks": 2}}},
            r"unknown key memories\.x\.banks \(value 2\); known keys are capacity_kib, macro_kib",
        ),
        ({"memories": {"x": {"macro_kib": 1}}}, r"key memories\.x\.capacity_kib is missing"),
        ({"kind": "dense"}, "kind must be one of 'unstructured' or 'structured', not 'dense'"),
        ({"name": "My Machine"}, "name.*not 'My Machine'"),
        ({"lanes": 3}, "lanes must be a power of two between 1 and 64, not 3"),
        ({"lanes": 128}, "lanes must be a power of two between 1 and 64, not 128"),
        ({"lanes": 0}, "lanes must be a power of two between 1 and 64, not 0"),
        ({"lanes": "four"}, "lanes: input should be a valid integer, not 'four'"),
        ({"lanes": 4.0}, r"lanes: input should be a valid integer, not 4\.0"),
        ({"lanes": True}, "lanes: input should be a valid integer, not True"),
        ({"accumulators": 4}, "accumulators must be a power of two between 8 and 256, not 4"),
        ({"weight_words": 16}, "weight_words must be a power of two between 1 and 8, not 16"),
        ({"collector": 0}, "collector must be at least 1, not 0"),
        ({"collector": 17}, "collector must be at most 16, not 17"),
        ({"clock_ns": 0}, r"clock_ns must be at least 0\.1, not 0"),
        ({"clock_ns": float("nan")}, "clock_ns must be at .* not nan"),
        ({"window": 2}, "window must be 1 on a structured machine, not 2"),
        (
            {"kind": "unstructured", "columns": 2},
            "columns must be 1 on an unstructured machine, not 2",
        ),
        (
            {"dma": {"bytes_per_cycle": 0}},
            r"dma\.bytes_per_cycle must be a power of two between 1 and 1024, not 0",
        ),
        ({"rpu": {"rows": 3}}, r"rpu\.rows must be a power of two between 1 and 1024, not 3"),
        ({"rpu": {"depth": 100}}, r"depth must be a multiple of rows = 32, not 100"),
        (
            {"rpu": {"rows": 4, "elements": 16, "port_bits": 256}},
            r"port_bits must be at most 128, a tile of P, not 256",
        ),
        ({"rpu": {"rows": 128}}, r"rpu\.rows must be at most the 64 nibbles of a beat of p"),
        ({"dma": {"capacity_kib": 0}}, r"dma\.capacity_kib must be at least 1, not 0"),
        ({"dma": 16}, "dma.* not 16"),
        (
            {"memories": {"temperature_k": 310}},
            r"memories\.temperature_k must be one of 300 or 350",
        ),
        (
            {"memories": {"temperature_k": 350, "device": "itrs-lop"}},
            r"yaml: memories\.temperature_k must be 300 for device itrs-lop, not 350; .*lstp$",
        ),
        ({7: 8}, "7: keys should be strings, not 7"),
    ],
)
def test_bad_values_are_named(change, message, described):
    """One line that names the file, the key, the value and what would do."""
    with pytest.raises(InputError, match=message) as error:
        load_machine(described(SMALL | change))
    assert all("mine.yaml: " in line for line in str(error.value).splitlines())


@pytest.mark.parametrize("key", ["name", "kind", "lanes", "pses"])
def test_missing_keys_are_named(key, described):
    with pytest.raises(InputError, match=f"key {key} is missing; known keys are name, kind"):
        load_machine(described({k: v for k, v in SMALL.items() if k != key}))


def test_every_fault_gets_its_line(described):
    with pytest.raises(InputError) as error:
        load_machine(described(SMALL | {"lanes": 3, "lane": 4}))
    assert len(str(error.value).splitlines()) == 2


def test_descriptions_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        PRESETS["structured"].lanes = 8


@pytest.mark.parametrize(
    ("assignment", "read", "value"),
    [
        ("dma.bytes_per_cycle=16", lambda m: m.dma.bytes_per_cycle, 16),
        ("dma.capacity_kib=1024", lambda m: m.dma.capacity_kib, 1024),
        ("dma.capacity_kib=null", lambda m: m.dma.capacity_kib, None),
        ("lanes=8", lambda m: m.lanes, 8),
        ("clock_ns=1.5", lambda m: m.clock_ns, 1.5),
        ("name=wide", lambda m: m.name, "wide"),
        ("memories.x.capacity_kib=64", lambda m: m.memories.x.capacity_kib, 64),
        (" lanes = 8", lambda m: m.lanes, 8),
    ],
)
def test_override_changes_one_value(assignment, read, value):
    before = PRESETS["structured"]
    after = override(before, [assignment])
    assert read(after) == value
    assert after != before or read(before) == value


def test_overrides_apply_in_order_and_are_checked_together():
    """Either alone is legal; the later one wins; a pair that is only legal together passes."""
    assert override(PRESETS["structured"], ["lanes=8", "lanes=2"]).lanes == 2
    machine = override(PRESETS["unstructured"], ["kind=structured", "window=1", "columns=4"])
    assert (machine.kind, machine.columns) == ("structured", 4)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("lanes", "--set lanes: must be KEY=VALUE, for example dma.bytes_per_cycle=16"),
        ("lane=4", "--set lane=4: no key 'lane' in a machine; keys here are name, kind, lanes"),
        ("dma.width=4", r"no key 'dma\.width' in a machine; keys here are bytes_per_cycle"),
        ("dmx.width=4", r"no key 'dmx\.width' in a machine; keys here are name, kind"),
        ("lanes.x=4", r"no key 'lanes\.x' in a machine"),
        ("lanes=3", "--set: lanes must be a power of two between 1 and 64, not 3"),
        ("lanes=[", r"--set lanes=\[: '\[' is not a YAML value"),
        ("window=4", "window must be 1 on a structured machine, not 4"),
    ],
)
def test_bad_overrides_are_refused(assignment, message):
    with pytest.raises(InputError, match=message):
        override(PRESETS["structured"], [assignment])


def test_machine_from_python_is_checked_too():
    with pytest.raises(ValueError, match="power of two"):
        Machine(**SMALL | {"lanes": 3})
