"""The gates of the PSE against the product: part of the exhaustive run, and planted faults."""

from dataclasses import replace

import numpy as np
import pytest

from sinai.common.errors import MissingError
from sinai.hw import exhaustive, netlist
from sinai.hw.pse import PSE

#: Patterns of x: 0, 1, -1, both extremes, each nibble alone at its largest, and their neighbours.
CORNERS = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x000F, 0x00F0, 0x0F00, 0xF000, 0x1234, 0xEDCC]
RANGES = [range(x, x + 1) for x in CORNERS]

needs_compiler = pytest.mark.skipif(exhaustive.compiler() is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def gates():
    pytest.importorskip("pyosys", reason="pyosys is not installed (extra `rtl`)")
    return netlist.synthesise(PSE())


@needs_compiler
def test_corners_against_every_operand(gates):
    """12 values of x with all 65536 of w: 786,432 pairs, all equal."""
    assert exhaustive.compare(gates, RANGES) == exhaustive.Comparison(12 << 16, 0, None)


@needs_compiler
@pytest.mark.parametrize("bit", [0, 15, 31])
def test_stuck_register_is_seen(gates, bit):
    """A bit of the result stuck at 0 is wrong exactly where the product has a 1."""
    output = gates.outputs["sum"][bit]
    stuck = [
        replace(gate, pins=gate.pins | {"D": "0"}) if gate.pins.get("Q") == output else gate
        for gate in gates.gates
    ]
    x = np.array(CORNERS, dtype=np.uint16).view(np.int16).astype(np.int64)
    products = x[:, None] * np.arange(-32768, 32768)
    found = exhaustive.compare(replace(gates, gates=stuck), RANGES)
    assert found.differing == np.count_nonzero(products >> bit & 1) > 0


@needs_compiler
def test_wrong_gate_is_seen(gates):
    """One AND that drives a partial product becomes an OR."""
    place = next(n for n, gate in enumerate(gates.gates) if gate.kind == "$_AND_")
    wrong = list(gates.gates)
    wrong[place] = replace(wrong[place], kind="$_OR_")
    assert exhaustive.compare(replace(gates, gates=wrong), RANGES).differing > 0


@needs_compiler
def test_idle_register_is_seen(gates):
    """Registers that do not load are reported for every pair: here all enables are low."""
    idle = [
        replace(gate, pins=gate.pins | {"E": "0"}) if "E" in gate.pins else gate
        for gate in gates.gates
    ]
    found = exhaustive.compare(replace(gates, gates=idle), [range(5, 6)])
    assert found.differing == 1 << 16


@needs_compiler
def test_lost_sign_is_seen(monkeypatch):
    """A PSE that reads bit 15 of w as unsigned is wrong exactly where w < 0 and x is not 0.

    x = 1 differs for all 32768 negative w, first for -32768; x = 0 never does.
    """
    pytest.importorskip("pyosys", reason="pyosys is not installed (extra `rtl`)")
    operand = PSE._operand

    def top_unsigned(self, m, port, wide, *, number, position):
        signed = operand(self, m, port, wide, number=number, position=position)
        return signed[:4] if port == "w" else signed

    monkeypatch.setattr(PSE, "_operand", top_unsigned)
    wrong = netlist.synthesise(PSE())
    assert exhaustive.compare(wrong, [range(0, 1)]).differing == 0
    found = exhaustive.compare(wrong, [range(1, 2)])
    assert (found.differing, found.first) == (32768, (1, -32768))


def test_missing_compiler_is_named(gates, monkeypatch):
    monkeypatch.setattr(exhaustive, "compiler", lambda: None)
    with pytest.raises(MissingError, match="install g\\+\\+ or set CXX"):
        exhaustive.compare(gates, RANGES)


def test_missing_yosys_is_named(monkeypatch, capsys):
    monkeypatch.setattr(netlist, "find_spec", lambda name: None)
    assert exhaustive.main() == 3
    assert "pip install 'sinai[rtl]'" in capsys.readouterr().err


def test_unknown_cell_is_refused(gates):
    odd = netlist.Gate("$_DLATCH_P_", {"D": 2, "E": 3, "Q": 4})
    with pytest.raises(ValueError, match=r"\$_DLATCH_P_"):
        netlist.evaluator(replace(gates, gates=[*gates.gates, odd]))


def test_loop_is_refused():
    """Two inverters that drive each other."""
    ring = [netlist.Gate("$_NOT_", {"A": 2, "Y": 3}), netlist.Gate("$_NOT_", {"A": 3, "Y": 2})]
    with pytest.raises(ValueError, match="2 gates form a loop"):
        netlist.evaluator(netlist.Netlist({}, {"y": [2]}, ring))
