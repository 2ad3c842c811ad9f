"""The whole core in Icarus Verilog, a second simulator: memories flat or apart, whatever they hold.

Icarus is slow, so one small layer of each kind of machine; every port is looked at in every cycle.
"""

import re
import shutil
import subprocess

import numpy as np
import pytest

from sinai.common.cases import Case, operands_of, random_spec
from sinai.common.commands import commands
from sinai.common.layer import Layer
from sinai.common.machine import PRESETS
from sinai.common.operands import input_stream, read_outputs
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme
from sinai.hw.registers import registers, windows

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("vvp") is None,
    reason="Icarus Verilog is not installed",
)

#: Plays the host's writes and the input stream, both streams with gaps, until all words are out.
#: A line a cycle: what a handshake or the monitor shows, and the output word that is taken.
TESTBENCH = """
module testbench;
  reg clk = 0, rst = 1, host_valid = 0, out_ready = 0;
  reg [47:0] writes [0:{writes} - 1];
  reg [63:0] words [0:{words}];
  reg [15:0] noise = 1;
  reg [2:0] moves;
  integer sent = 0, taken = 0, given = 0, n = 0;
  wire in_valid = ~rst & (taken < {words}) & (noise[1:0] != 0);
  wire host_ready, host_read_valid, in_ready, out_valid;
  wire [31:0] host_read_data;
  wire [63:0] out_data;
  wire [10:0] monitor;
  wire [47:0] access = writes[host_valid ? sent : 0];
  sinai_core dut(.clk(clk), .rst(rst), .host_valid(host_valid), .host_write(1'b1),
    .host_address(access[47:32]), .host_write_data(access[31:0]), .host_ready(host_ready),
    .host_read_valid(host_read_valid), .host_read_data(host_read_data),
    .in_valid(in_valid), .in_ready(in_ready), .in_data(words[taken]),
    .out_valid(out_valid), .out_ready(out_ready), .out_data(out_data),
    .monitor_running(monitor[0]), .monitor_issue(monitor[1]), .monitor_cause(monitor[5:2]),
    .monitor_begin(monitor[6]), .monitor_end(monitor[7]), .monitor_exact(monitor[8]),
    .monitor_done(monitor[9]), .monitor_transfer(monitor[10]));
  always #5 clk = ~clk;
  initial begin
    $readmemh("writes.hex", writes);
    $readmemh("words.hex", words);
    @(negedge clk);
    @(negedge clk) rst = 0;
    while (given < {expected} && n < 2000) begin
      host_valid = sent < {writes};
      out_ready = noise[3];
      #4 $write("%b%b%b%b %b ", host_ready, host_read_valid, in_ready, out_valid, monitor);
      if (out_valid & out_ready) $display("%h", out_data); else $display("-");
      moves = {{host_valid & host_ready, in_valid & in_ready, out_valid & out_ready}};
      @(posedge clk) #1 n = n + 1;
      sent = sent + moves[2];
      taken = taken + moves[1];
      given = given + moves[0];
      noise = {{noise[14:0], noise[15] ^ noise[13] ^ noise[12] ^ noise[10]}};
      @(negedge clk);
    end
    $finish;
  end
endmodule
"""

LAYER = Layer(
    name="layer", c_in=5, c_out=9, kernel=1, stride=1, padding=0, h_in=1, w_in=3, k=8, residual=True
)


@pytest.fixture(scope="module", params=["structured-small", "unstructured-small"])
def machine(request):
    return PRESETS[request.param]


@pytest.fixture(scope="module")
def case(machine):
    scheme = "unstructured:0.5" if machine.unstructured else "structured:6:8"
    rng = np.random.default_rng(1)
    theta = 0 if machine.unstructured else None
    operands = operands_of(rng, random_spec(rng, LAYER), machine)
    return Case(operands, Scheme.parse(scheme), theta, 1)


@pytest.fixture(scope="module")
def made(machine, case):
    program = compile_layer(LAYER, machine, case.scheme)
    return commands(program, case.operands.spec, theta=case.theta, store_masks=True)


@pytest.fixture(scope="module")
def play(machine, case, made, tmp_path_factory):
    """Function from Verilog files to the log of the layer, line by line."""
    folder = tmp_path_factory.mktemp("icarus")
    at = {register.name: register.address for register in registers(machine)}
    queues = made.transfer_words(), made.compute_words()
    writes = [(at["CONTROL"], 3)]  # START and CLEAR
    for window, descriptors in zip(windows(machine), queues, strict=True):
        for slot, words in enumerate(descriptors):
            base = window.address + slot * window.slot_bytes
            writes += [(base + 4 * word, value) for word, value in enumerate(words.tolist())]
    writes.append((at["TAIL"], len(queues[0]) | len(queues[1]) << 16))
    words = input_stream(made, case.operands).view("<u8").tolist()
    lines = {
        "writes.hex": [f"{address:04x}{value:08x}" for address, value in writes],
        "words.hex": [f"{word:016x}" for word in [*words, 0]],
    }
    for name, numbers in lines.items():
        (folder / name).write_text("\n".join(numbers) + "\n")
    expected = sum(each.move.words for each in made.transfers if not each.loads)
    bench = TESTBENCH.format(writes=len(writes), words=len(words), expected=expected)
    (folder / "testbench.v").write_text(bench)

    def run(*sources):
        compiled = ["iverilog", "-g2005", "-s", "testbench", "-o", "run", "testbench.v"]
        subprocess.run([*compiled, *map(str, sources)], cwd=folder, check=True)
        done = subprocess.run(
            ["vvp", "-n", "run"],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.stdout.splitlines()

    return run


@pytest.fixture(scope="module")
def apart(machine, written):
    """The files that a memory compiler would take its part of: logic, and memories."""
    folder = written(machine.name, "blackbox")
    return folder / "sinai_core.v", folder / "sinai_sram.v"


@pytest.fixture(scope="module")
def log(play, apart):
    return play(*apart)


def outputs_of(made, case, log):
    words = [line.split()[2] for line in log]
    stream = b"".join(int(word, 16).to_bytes(8, "little") for word in words if word != "-")
    return read_outputs(made, stream, order=case.operands.order)


def check(made, case, log):
    """Every byte that means anything is the integer model's."""
    found, wanted = outputs_of(made, case, log), case.reference()
    np.testing.assert_array_equal(found.y, wanted.y[0])
    np.testing.assert_array_equal(found.yq, wanted.yq[0])
    np.testing.assert_array_equal(found.mask, wanted.mask[0])


def test_layer_with_memories_apart(made, case, log):
    assert "x" not in "".join(log)
    check(made, case, log)


def test_flat_memories_are_the_same(machine, play, written, log):
    """Every handshake, monitor and output word, in every cycle."""
    assert play(written(machine.name) / "sinai_core.v") == log


def test_nothing_relies_on_what_memories_hold(made, case, play, apart, log, tmp_path):
    """Full of noise instead of zeros: the same handshakes and monitors in every cycle, and outputs.

    Only the places of a row that no channel or pixel has are stored as they are found.
    """
    logic, memories = apart
    text, count = re.subn(
        r"(words\[n\]|read_data) = 0;", r"\1 = {16{$random}};", memories.read_text()
    )
    assert count == 2 * text.count("endmodule")
    noisy = tmp_path / "noisy.v"
    noisy.write_text(text)
    found = play(logic, noisy)
    assert [line.split()[:2] for line in found] == [line.split()[:2] for line in log]
    check(made, case, found)


def test_a_faulty_memory_is_seen(play, apart, log, tmp_path):
    """One that reads the word beside."""
    logic, memories = apart
    text = memories.read_text()
    faulty = tmp_path / "faulty.v"
    faulty.write_text(text.replace("words[read_address];", "words[read_address ^ 1];"))
    assert faulty.read_text() != text
    assert play(logic, faulty) != log
