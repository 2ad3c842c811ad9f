"""SRAM: looked-up rows against the printed table, the stated rules, the clock."""

import pytest

from sinai.common.errors import InputError
from sinai.common.machine import PRESETS, load_machine, override
from sinai.report.area import area_mm2, art
from sinai.report.sram import banks, check_clock, memory, sram
from sinai.sim.counts import BUFFERS, MEMORIES

U = PRESETS["unstructured"]


def test_row_by_hand():
    """32 KiB x 512 bit, 1rw, low operating power, 300 K, copied from the table."""
    point = sram(32, 512, "1rw", "itrs-lop", 300)
    assert (point.read_pj, point.write_pj) == pytest.approx((18.3562, 40.3969))
    assert point.leakage_mw == pytest.approx(0.807658 + 0.644011)
    assert point.area_mm2 == pytest.approx(0.11555)
    assert (point.access_ns, point.cycle_ns) == (0.917527, 0.917939)
    assert "CACTI 7, 45 nm, itrs-lop cells, itrs-lop periphery, 300 K" in point.source


def test_wide_word_is_macros_side_by_side():
    one, four = (sram(8, bits, "1r1w", "itrs-lop", 300) for bits in (512, 2048))
    assert (four.parallel, four.port_bits) == (4, 512)
    assert four.read_pj == pytest.approx(4 * one.read_pj)
    assert four.leakage_mw == pytest.approx(4 * one.leakage_mw)
    assert four.access_ns == one.access_ns


@pytest.mark.parametrize(("bits", "port"), [(1, 64), (64, 64), (65, 128), (200, 256), (300, 512)])
def test_narrow_word_takes_the_next_wider_port(bits, port):
    assert sram(32, bits, "1rw", "itrs-lop", 300).port_bits == port


def test_missing_size_becomes_the_next_larger():
    """The table has no 1 KiB macro of 512 bit."""
    assert sram(1, 512, "1rw", "itrs-hp", 300).size_kib == 2


def test_device_names_cell_and_periphery():
    """itrs-lop-hp: lop cells with hp periphery; 4 KiB x 64 bit reads at 3.68992 pJ."""
    assert sram(4, 64, "1rw", "itrs-lop-hp", 300).read_pj == pytest.approx(3.68992)


def test_two_ports_at_350_k_scale_the_leakage_as_one_port_does():
    """Both ports: 300 K value x (1rw at 350 K / 1rw at 300 K), gate leakage unchanged."""
    cold, hot = (sram(4, 64, "1rw", "itrs-lstp", kelvin) for kelvin in (300, 350))
    gate = 4.7561e-05
    assert hot.leakage_mw == pytest.approx(0.000876967 + gate)
    two_cold, two_hot = (sram(4, 64, "1r1w", "itrs-lstp", kelvin) for kelvin in (300, 350))
    ratio = 0.000876967 / 0.000140432
    assert two_cold.leakage_mw < two_hot.leakage_mw < ratio * two_cold.leakage_mw
    assert two_hot.read_pj == two_cold.read_pj
    assert "x 6.24" in two_hot.source
    assert cold.read_pj == hot.read_pj


def test_unknown_macro_is_refused():
    with pytest.raises(InputError, match="no macro of 4 KiB, 1rw, device itrs-lop at 350 K"):
        sram(4, 64, "1rw", "itrs-lop", 350)


def test_hot_machine_needs_a_device_with_hot_rows():
    with pytest.raises(InputError, match="350 exists for itrs-hp and itrs-lstp"):
        override(U, ["memories.temperature_k=350"])
    cold = override(U, ["memories.device=itrs-lstp"])
    hot = override(cold, ["memories.temperature_k=350"])
    assert memory(hot, "p").leakage_mw > memory(cold, "p").leakage_mw


def test_unknown_device_is_refused():
    with pytest.raises(InputError, match=r"memories.device must be one of 'itrs-hp', 'itrs-lop'"):
        override(U, ["memories.device=cmos"])


def test_memory_is_capacity_over_macros():
    """8192 KiB of weights in 16 banks of macros of 32 KiB: 16 rows of one; p, 256 KiB in macros of
    8 KiB for words of 2048 bit: 8 rows of four. All have two ports."""
    weights, p = memory(U, "weights"), memory(U, "p")
    assert (weights.banks, weights.rows, weights.macros) == (16, 16, 256)
    assert (p.banks, p.rows, p.macros) == (1, 8, 32)
    assert weights.leakage_mw == pytest.approx(256 * (1.02542 + 0.825182))
    assert weights.area_mm2 == pytest.approx(256 * 0.25111)


def test_banks_by_hand():
    """A row of y is a value of each of 4 x 8 vector units; the residual has two halves."""
    machine = PRESETS["structured"]
    counts = {"weights": 4, "x": 8, "y": 32, "residual": 64, "xq": 1, "p": 8, "masks": 1}
    assert {name: banks(machine, name) for name in counts} == counts
    assert banks(override(machine, ["weight_words=2"]), "weights") == 8
    assert banks(U, "masks") == 16


def test_bank_is_a_macro_at_least():
    """4 KiB in 4 banks of 8 KiB macros are 4 macros."""
    machine = override(PRESETS["unstructured-small"], ["memories.weights.capacity_kib=4"])
    assert (memory(machine, "weights").rows, memory(machine, "weights").macros) == (1, 4)


def test_buffers_of_the_projection_unit_by_hand():
    """Gather: 2 x 16 pixels of 512 nibbles; sums: 16 x 16 words of 32 x 20 bit, two macros of 512;
    tap: 2048 pixels of 64 nibbles in two rows of 32 KiB."""
    gather, sums, tap = (memory(U, name) for name in BUFFERS)
    assert (gather.word_bits, gather.macros, gather.point.size_kib) == (2048, 4, 2)
    assert (sums.word_bits, sums.macros, sums.point.size_kib) == (640, 2, 16)
    assert (tap.word_bits, tap.macros, tap.point.size_kib) == (256, 2, 32)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_the_clock_of_their_memories(preset):
    check_clock(load_machine(preset))


def test_fast_clock_is_refused():
    """32 KiB x 64 bit needs 1.10507 ns on y; 1.1 ns is enough for weights and x."""
    with pytest.raises(
        InputError, match=r"clock_ns must be at least 1.105, .* the y memory .* 1.1"
    ):
        check_clock(override(U, ["clock_ns=1.1"]))


def test_slow_device_is_refused_at_a_fast_clock():
    with pytest.raises(InputError, match=r"clock_ns must be at least 1\.622"):
        check_clock(override(U, ["clock_ns=1.4", "memories.device=itrs-lstp"]))


def test_area_is_the_sum_of_its_parts():
    table = art(U)
    assert area_mm2(U) == pytest.approx(sum(entry.um2 for entry in table.values()) / 1e6)
    assert {*MEMORIES, *BUFFERS} <= set(table)
    assert table["mvu"].instances == 16 * 32
    # Sixteen lanes of 48 x 32 flip-flops, a 32:1 multiplexer and an adder.
    lane = 1536 * 4.5 + 31 * 48 * 1.9 + 48 * 4.3
    assert table["accumulator"].um2 == pytest.approx(16 * lane)


def test_equal_multipliers_have_equal_multiplier_area():
    """Both published machines have 512 PSEs; their trees differ by less than 1 %."""
    assert art(U)["mvu"].um2 == pytest.approx(art(PRESETS["structured"])["mvu"].um2, rel=0.01)
