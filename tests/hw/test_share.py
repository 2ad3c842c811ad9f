# amaranth: UnusedElaboratable=no
"""Modules that Verilog holds once: how often each is there, and what is refused."""

import re

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out

from sinai.hw.share import Emitter, shared
from sinai.hw.sram import Sram
from sinai.hw.verilog import design


class Leaf(Component):
    """Without a clock, and with ports in an interface."""

    module_name = "leaf"

    def __init__(self, width=8):
        super().__init__({"i": In(stream.Signature(width)), "o": Out(width)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.o.eq(~self.i.payload), self.i.ready.eq(self.i.valid)]
        return m


class Branch(Component):
    """Two leaves, a register, and three banks of two kinds."""

    module_name = "branch"

    i: In(8)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        found = self.i
        for n in range(2):
            leaf = Leaf()
            m.submodules[f"leaf_{n}"] = shared(leaf, platform)
            m.d.comb += leaf.i.payload.eq(found)
            found = leaf.o
        for n, depth in enumerate((4, 4, 8)):
            sram = Sram(8, depth)
            m.submodules[f"sram_{n}"] = shared(sram, platform)
            m.d.comb += sram.write_data.eq(found)
            found = found ^ sram.read_data
        m.d.sync += self.o.eq(found)
        return m


class Tree(Component):
    """Three branches and a leaf of its own."""

    module_name = "tree"

    i: In(8)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        found = self.i
        for n in range(3):
            branch = Branch()
            m.submodules[f"branch_{n}"] = shared(branch, platform)
            m.d.comb += branch.i.eq(found)
            found = branch.o
        m.submodules.leaf = shared(Leaf(), platform)
        m.d.comb += self.o.eq(found)
        return m


def test_modules_are_written_once():
    """Tree, branch and leaf, whoever uses them; SRAMs apart, 3 * 2 and 3 * 1 of them."""
    made = design(Tree())
    assert re.findall(r"^module (\w+)", made.text, re.M) == ["tree", "branch", "leaf"]
    assert re.findall(r"^module (\w+)", made.sram_text, re.M) == [
        "sinai_sram_8x4",
        "sinai_sram_8x8",
    ]
    assert [(sram.depth, count) for sram, count in made.srams] == [(4, 6), (8, 3)]


def test_instances_multiply_on_the_way_down():
    """3 branches of 2 leaves, and one leaf beside them: 7."""
    emitter = Emitter()
    emitter.emit(Tree())
    assert emitter.reach("tree") == {
        "tree": 1,
        "branch": 3,
        "leaf": 7,
        "sinai_sram_8x4": 6,
        "sinai_sram_8x8": 3,
    }


def test_clock_and_reset_go_where_they_are_used():
    """A leaf has neither, an SRAM has no reset."""
    text = design(Tree()).text
    leaf, sram, branch = (
        re.search(rf"^  {name} \w+ \((.*?)\);", text, re.M | re.S)[1]
        for name in ("leaf", "sinai_sram_8x4", "branch")
    )
    assert (".clk(" in leaf, ".rst(" in leaf) == (False, False)
    assert (".clk(" in sram, ".rst(" in sram) == (True, False)
    assert (".clk(" in branch, ".rst(" in branch) == (True, True)
    assert ".i__payload(" in leaf


def test_designs_of_one_emitter_share():
    emitter = Emitter()
    whole, part = design(Tree(), emitter), design(Branch(), emitter)
    assert part.text == design(Branch()).text
    assert set(emitter.entries) >= {"tree", "branch", "leaf"}
    assert whole.text.endswith(part.text)


def test_one_name_for_two_kinds_is_refused():
    emitter = Emitter()
    emitter.emit(Leaf(8))
    with pytest.raises(ValueError, match="Two components called leaf differ in their ports"):
        emitter.emit(Leaf(9))


def test_in_simulation_it_is_the_component_itself():
    leaf = Leaf()
    assert shared(leaf, None) is leaf
    assert isinstance(leaf.o, Signal)
