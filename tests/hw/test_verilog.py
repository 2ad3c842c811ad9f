"""The emitted Verilog: its ports, its lint, and its behaviour in an independent simulator."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sinai.common.arithmetic import psum4, psum16
from sinai.common.contract import CONTRACT
from sinai.common.errors import InputError, MissingError
from sinai.common.machine import PRESETS, Machine
from sinai.hw.verilated import verilator
from sinai.hw.verilog import WAIVERS, ports, write
from sinai.hw.words import pack

SMALL, OTHER = PRESETS["structured-small"], PRESETS["unstructured-small"]
DESIGNS = ("sinai_pse", "sinai_vpu", "sinai_core")


@pytest.fixture(scope="module")
def folder(written):
    return written(SMALL.name)


@pytest.fixture(scope="module")
def boxed(written):
    """The other kind of machine, with memories of their own."""
    return written(OTHER.name, "blackbox")


def header_ports(text, design):
    """Ports of the module `design` as the Verilog itself declares them."""
    body = re.search(rf"^module {design}\(.*?^endmodule", text, re.M | re.S)[0]
    found = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", body, re.M)
    return {(name, way, int(top or 0) + 1) for way, top, name in found}


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("where", ["folder", "boxed"])
def test_described_ports_are_those_of_the_verilog(where, design, request):
    made = request.getfixturevalue(where)
    listed = json.loads((made / "ports.json").read_text())["designs"][design]["ports"]
    assert header_ports((made / f"{design}.v").read_text(), design) == {
        (port["name"], port["direction"], port["width"]) for port in listed
    }
    assert all(port["meaning"] for port in listed)


def test_widths_follow_the_machine():
    """w = 4: 64 bits an operand and PSE; R = 8: three address bits; 48-bit sums."""
    widths = {port["name"]: port["width"] for port in ports(SMALL)["sinai_vpu"]["ports"]}
    assert widths["x"] == widths["weights"] == 256
    assert widths["address"] == widths["o_address"] == 3
    assert widths["o_sum"] == 48
    assert {p["width"] for p in ports(SMALL)["sinai_core"]["ports"] if p["name"] == "in_data"} == {
        64
    }


def test_latencies_are_those_of_the_contract():
    described = ports(SMALL)
    assert described["sinai_pse"]["latency"] == CONTRACT.pse
    assert described["sinai_vpu"]["latency"] == CONTRACT.vpu


def test_written_files(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *(f"{design}.{kind}" for design in DESIGNS for kind in ("v", "sdc")),
        "ports.json",
        "registers.json",
        "verilator.vlt",
    }
    data = json.loads((folder / "ports.json").read_text())
    assert data["machine"] == "structured-small"
    assert data["designs"] == ports(SMALL)
    data = json.loads((folder / "registers.json").read_text())
    assert data["machine"] == "structured-small"
    assert {"STATUS", "CONTROL"} <= {register["name"] for register in data["registers"]}


def test_heading_gives_the_machine_back(folder):
    """The comment of a file holds the machine, as YAML that reads back the same."""
    import yaml

    heading = re.match(r"(//.*\n)+", (folder / "sinai_vpu.v").read_text())[0].splitlines()
    described = yaml.safe_load("\n".join(line.removeprefix("//")[1:] for line in heading[2:]))
    assert Machine.model_validate(described) == SMALL


def test_page_names_every_port_and_waiver():
    page = (Path(__file__).parents[2] / "docs" / "rtl.md").read_text(encoding="utf-8")
    for design, described in ports(SMALL).items():
        section = page.split(f"### {design}\n")[1].split("\n##")[0]
        assert [
            port["name"] for port in described["ports"] if f"`{port['name']}`" not in section
        ] == []
    assert [
        waiver.rule for waiver in WAIVERS if f"| {waiver.rule} | {waiver.reason[:40]}" not in page
    ] == []


@pytest.mark.parametrize("machine", [SMALL, OTHER], ids=lambda machine: machine.kind)
def test_same_machine_same_text(written, machine):
    """Written twice, and with memories in a file of their own: the same modules, in their order."""
    flat, boxed = written(machine.name), written(machine.name, "blackbox")
    for name in DESIGNS:
        text, rest = (folder / f"{name}.v" for folder in (flat, boxed))
        assert text.read_text().startswith(rest.read_text())
    text, own = ((boxed / name).read_text() for name in ("sinai_core.v", "sinai_sram.v"))
    srams = modules(own)
    assert all(name.startswith("sinai_sram_") for name in srams)
    assert modules((flat / "sinai_core.v").read_text()) == modules(text) | srams
    assert set(modules(text)).isdisjoint(srams)


def modules(text):
    """The modules of a text by name."""
    found = re.findall(r"^(module (\S+?) ?\(.*?^endmodule)$", text, re.M | re.S)
    assert len(found) == len({name for _, name in found}), "a module is there twice"
    return {name: body for body, name in found}


def instances(body):
    return re.findall(r"^  (\\?sinai_\S+) +\S+ \($", body, re.M)


@pytest.mark.parametrize("design", DESIGNS)
def test_each_module_is_there_once(folder, design):
    """However many instances there are; every module but the top has one, every instance a module.

    A VPU of 4 PSEs has 4 instances; a core of 2 lanes and 2 columns has one of 4 VPUs.
    """
    found = modules((folder / f"{design}.v").read_text())
    used = [name for body in found.values() for name in instances(body)]
    assert set(used) == set(found) - {design}
    assert used.count("sinai_pse") == (0 if design == "sinai_pse" else 4)
    assert used.count("sinai_vpu") == (4 if design == "sinai_core" else 0)


def test_list_of_memories(boxed):
    """y has 64 KiB in V = 4 banks of 16 bits: 2^19 / 64 = 8192 words each."""
    described = json.loads((boxed / "memories.json").read_text())
    assert described["file"] == "sinai_sram.v"
    assert "read_en" in described["behaviour"]
    assert described["designs"]["sinai_pse"] == described["designs"]["sinai_vpu"] == []
    core = {memory["name"]: memory for memory in described["designs"]["sinai_core"]}
    assert set(core) == set(modules((boxed / "sinai_sram.v").read_text()))
    assert core["sinai_sram_16x8192"] == {
        "name": "sinai_sram_16x8192",
        "width": 16,
        "depth": 8192,
        "granularity": 16,
        "instances": 4,
    }


def test_unknown_place_of_memories(tmp_path):
    with pytest.raises(InputError, match="memories must be flat or blackbox, not 'boxed'"):
        write(SMALL, tmp_path, memories="boxed")


def test_constraints_follow_the_clock(folder):
    """A clock of 2 ns: 30 % of it, 0.6 ns, outside on either side; rst like any input."""
    text = (folder / "sinai_pse.sdc").read_text()
    commands = [line for line in text.splitlines() if not line.startswith("#")]
    assert commands == [
        "create_clock -name clk -period 2 [get_ports clk]",
        "set_input_delay 0.6 -clock clk [get_ports {rst valid mode x w}]",
        "set_output_delay 0.6 -clock clk [get_ports {o_valid sum}]",
    ]


def test_unwritable_directory_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"taken: cannot be written"):
        write(SMALL, tmp_path / "taken")


@pytest.fixture(scope="module")
def lint():
    """The command line of Verilator that checks."""
    try:
        return [*verilator(), "--lint-only", "-Wall"]
    except MissingError as error:
        pytest.skip(str(error))


def check_verilator(lint, folder, design, *more):
    """Silent under -Wall with the waivers of verilator.vlt; each has its reason there."""
    command = [*lint, "--top-module", design, "verilator.vlt", f"{design}.v", *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "%Warning" not in done.stderr


@pytest.mark.parametrize("design", DESIGNS)
def test_verilator_finds_nothing_to_say(folder, lint, design):
    check_verilator(lint, folder, design)


def test_verilator_finds_nothing_to_say_of_the_other_kind(boxed, lint):
    check_verilator(lint, boxed, "sinai_core", "sinai_sram.v")


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        pytest.param("output [31:0] sum;", "output [30:0] sum;", "WIDTH", id="a bit less"),
        pytest.param("endmodule", "wire lost = x[0];\nendmodule", "UNUSEDSIGNAL", id="never read"),
        pytest.param("sum <= ", "sum = ", "BLKSEQ", id="not with the others"),
    ],
)
def test_waivers_leave_real_faults_visible(folder, lint, tmp_path, before, after, rule):
    text = (folder / "sinai_pse.v").read_text()
    assert before in text
    (tmp_path / "sinai_pse.v").write_text(text.replace(before, after))
    shutil.copy(folder / "verilator.vlt", tmp_path)
    done = subprocess.run(
        [*lint, "verilator.vlt", "sinai_pse.v"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert rule in done.stderr


needs_icarus = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("vvp") is None,
    reason="Icarus Verilog is not installed",
)


def check_icarus(folder, design, *more):
    """Silent under -Wall, with every module there."""
    command = ["iverilog", "-g2005", "-Wall", "-t", "null", "-s", design, f"{design}.v", *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_icarus
def test_icarus_finds_nothing_to_say_of_the_other_kind(boxed):
    check_icarus(boxed, "sinai_core", "sinai_sram.v")


@needs_icarus
@pytest.mark.parametrize("design", DESIGNS)
def test_icarus_finds_nothing_to_say(folder, design):
    check_icarus(folder, design)


@pytest.mark.exhaustive
@needs_icarus
@pytest.mark.parametrize("memories", ["flat", "blackbox"])
@pytest.mark.parametrize("name", PRESETS)
def test_nothing_to_say_of_any_preset(lint, tmp_path, name, memories):
    """`make lint-verilog`."""
    write(PRESETS[name], tmp_path, memories=memories)
    more = ["sinai_sram.v"] if memories == "blackbox" else []
    for design in DESIGNS:
        check_verilator(lint, tmp_path, design, *more)
        check_icarus(tmp_path, design, *more)


TESTBENCH = """
module testbench;
  reg clk = 0, rst = 1, valid = 0, mode = 0, first = 0, last = 0;
  reg [2:0] address = 0;
  reg [255:0] x = 0, weights = 0;
  wire o_valid;
  wire [2:0] o_address;
  wire [47:0] o_sum;
  reg [518:0] beats [0:{last}];
  integer n;
  sinai_vpu dut(.clk(clk), .rst(rst), .valid(valid), .mode(mode), .first(first), .last(last),
    .address(address), .x(x), .weights(weights),
    .o_valid(o_valid), .o_address(o_address), .o_sum(o_sum));
  always #5 clk = ~clk;
  initial begin
    $readmemh("beats.hex", beats);
    @(negedge clk) rst = 0;
    for (n = 0; n <= {last}; n = n + 1) begin
      {{valid, mode, first, last, address, x, weights}} = beats[n];
      #4 if (o_valid) $display("%0d %0d %0d", n, o_address, $signed(o_sum));
      @(negedge clk);
    end
    $finish;
  end
endmodule
"""


@needs_icarus
def test_vpu_in_icarus(folder, tmp_path):
    """200 random beats of a fixed seed: cycle, address and sum of every total are the reference's.

    Extremes are frequent; modes, accumulators and idle cycles alternate at random.
    """
    random = np.random.default_rng(1)
    words, expected, stored = [], [], {}
    for cycle in range(200):
        valid, mode, first, last = random.integers(0, 2, 4).tolist()
        address = int(random.integers(8))
        first |= address not in stored
        bits, count, reference = ((4, 64, psum4), (16, 4, psum16))[mode]
        edge = 1 << (bits - 1)
        x, weights = np.where(
            random.random((2, count)) < 0.3,
            random.choice([-edge, edge - 1, -1, 0, 1], (2, count)),
            random.integers(-edge, edge, (2, count)),
        )
        word = pack(weights, bits) | pack(x, bits) << 256
        for value, place in ((address, 512), (last, 515), (first, 516), (mode, 517), (valid, 518)):
            word |= value << place
        words.append(word)
        if valid:
            total = int(reference(x, weights)) + (0 if first else stored[address])
            if last:
                expected.append((cycle + CONTRACT.vpu, address, total))
            else:
                stored[address] = total
    words += [0] * (CONTRACT.vpu + 2)
    (tmp_path / "beats.hex").write_text("".join(f"{word:x}\n" for word in words))
    (tmp_path / "testbench.v").write_text(TESTBENCH.format(last=len(words) - 1))
    sources = [str(folder / "sinai_vpu.v"), "testbench.v"]
    subprocess.run(["iverilog", "-o", "run", *sources], cwd=tmp_path, check=True)
    done = subprocess.run(
        ["vvp", "-n", "run"], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60
    )
    given = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(expected) > 30
    assert given == expected
