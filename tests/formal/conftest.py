"""What the proofs share: a runner that asks a solver whether an assertion can fail.

A proof is a component whose inputs are free and whose assertions are to hold; the design under
proof is its submodule `dut`. yosys makes an and-inverter graph of it, and its copy of ABC unrolls
that over some cycles, merges what is equal and decides the rest by SAT.
"""

from __future__ import annotations

import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Module, Value

#: Passes from Amaranth's output to the graph.
_PASSES = """
hierarchy -check -top top
proc
flatten
chformal -lower
memory -nomap -nordff
memory_map
{forget}
opt -full
async2sync
dffunmap
delete -output
setundef -undriven -anyseq
opt -full
techmap
opt -fast
dffunmap
aigmap
opt_clean
select -assert-min 1 t:$assert
write_aiger -I -B {graph}
"""

_YOSYS = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for line in sys.argv[1].splitlines():
    libyosys.run_pass(line, design)
"""

#: Any start becomes an input; assumptions and assertions become one output; cycles are unrolled.
_ABC = (
    "read_aiger {graph}; logic; undc; strash; zero; fold; orpos;"
    " frames -i -F {cycles}; fraig; iprove"
)


def _holds(proof, folder, *, cycles, free=False, limit=100):
    """Whether no assertion of `proof` fails in the first `cycles` cycles, whatever the inputs.

    With `free`, the registers and memories of `dut` start with any contents, so that a proof over
    the cycles that a statement spans is one for all times.
    """
    source, graph = folder / "proof.il", folder / "proof.aig"
    source.write_text(_without_reset(proof), encoding="utf-8")
    passes = _PASSES.strip().format(
        forget="setattr -unset init w:*proof.dut.*" if free else "", graph=graph
    )
    _run([sys.executable, "-c", _YOSYS, f"read_rtlil {source}\n{passes}"], limit)
    solver = Path(find_spec("pyosys").origin).with_name("yosys-abc")
    log = _run([str(solver), "-c", _ABC.format(graph=graph, cycles=cycles)], limit)
    answers = [line.split()[0] for line in log.splitlines() if "SATISFIABLE" in line]
    assert answers in (["SATISFIABLE"], ["UNSATISFIABLE"]), f"no answer:\n{log}"
    return answers == ["UNSATISFIABLE"]


def _without_reset(proof):
    """RTLIL of the proof, in a clock domain without reset: registers start as after one."""
    top = Module()
    top.domains.sync = sync = ClockDomain(reset_less=True)
    top.submodules.proof = proof
    inputs = [Value.cast(getattr(proof, name)) for name in proof.signature.members]
    return rtlil.convert(top, name="top", ports=[sync.clk, *inputs])


def _run(command, limit):
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def holds(tmp_path):
    """Asks the solver: see :func:`_holds`."""
    pytest.importorskip("pyosys", reason="proofs need pyosys (extra `rtl`)")

    def ask(proof, **options):
        return _holds(proof, tmp_path, **options)

    return ask


@pytest.fixture
def planted():
    """Gives a copy of a module with a fault: `right`, once in its source, becomes `wrong`."""

    def plant(module, right, wrong):
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert source.count(right) == 1, f"{right!r} must be once in {module.__name__}"
        copy = types.ModuleType(module.__name__)
        copy.__package__ = module.__package__
        faulty = source.replace(right, wrong)
        exec(compile(faulty, f"{module.__file__} (fault)", "exec", dont_inherit=True), vars(copy))
        return copy

    return plant
