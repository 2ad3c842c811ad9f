"""The soak: planted faults are found and shrunk to a command that shows them, results are kept."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from multiprocessing import active_children
from os import killpg
from pathlib import Path
from signal import SIGTERM
from time import monotonic, sleep

import pytest

from sinai.common.cases import random_case
from sinai.common.contract import CONTRACT
from sinai.common.errors import InputError, MissingError
from sinai.common.machine import PRESETS, override
from sinai.hw.verilated import VerilatedCore
from sinai.report import soak as module
from sinai.report.soak import Soak, check, command, main, shrink, soak, wrong

S = PRESETS["structured-small"]
NAME = "structured-small"


@pytest.fixture(scope="module")
def core():
    try:
        return VerilatedCore(S)
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def one_machine(core, monkeypatch):
    """Every random core is that of the small structured machine, and blocks are small."""
    monkeypatch.setattr(module, "random_machine", lambda number: (NAME, [], S))
    monkeypatch.setattr(module, "BLOCK", 4)


def test_a_failing_case_is_shrunk_to_one_command(core, capsys):
    """A simulator that ranks a cycle too long; the command shows it, and nothing without it."""
    contract = wrong("rank")
    seed = next(
        seed for seed in range(50) if check(core, S, random_case(seed, S), contract).problems
    )
    least, path = shrink(core, S, random_case(seed, S), contract)
    assert (least.layer.pixels, least.layer.c_in, least.layer.c_out) == (1, 1, 1)
    assert path
    line = command(NAME, [], seed, path, "rank")
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "sinai.report.soak"]
    assert words[words.index("--simpler") + 1] == ",".join(map(str, path))
    assert main(words[3:]) == 1
    shown = capsys.readouterr()
    assert str(least) in shown.out
    assert "counter edges: RTL" in shown.out
    assert "RTL, simulator and integer model differ" in shown.err
    assert main(words[3 : words.index("--inject")]) == 0
    assert "0 differences" in capsys.readouterr().out


def test_shrinking_keeps_what_a_fault_needs(core, monkeypatch):
    """A fault of layers of three channels and more: shrunk to three, and to one of all else."""

    def faulty(core, machine, case, contract):
        return module.Checked(problems=("wrong",) * (case.layer.c_out >= 3))

    monkeypatch.setattr(module, "check", faulty)
    least, _ = shrink(core, S, random_case(0, S), CONTRACT)
    layer = least.layer
    assert (layer.c_out, layer.c_in, layer.kernel, layer.pixels, layer.k) == (3, 1, 1, 1, 1)


def test_the_command_names_the_whole_machine(core):
    """Read back, it sets the same values."""
    sets = ["columns=4", "dma.capacity_kib=8"]
    words = shlex.split(command(NAME, sets, 5, ()))
    assert [words[i + 1] for i, word in enumerate(words) if word == "--set"] == sets
    assert "--simpler" not in words
    assert "--inject" not in words


def test_an_error_of_the_core_is_a_problem_of_the_case(core, monkeypatch):
    """A failing assertion of the simulator too; the core goes on with the next case."""
    case = random_case(2, S)

    def breaks(*args, **kwargs):
        raise AssertionError("no pass")

    with monkeypatch.context() as patched:
        patched.setattr(module, "compare_layer", breaks)
        assert check(core, S, case, CONTRACT).problems == ("AssertionError: no pass",)
    assert check(core, S, case, CONTRACT).problems == ()


def test_one_case_in_four_has_streams_that_wait(core):
    found = [check(core, S, random_case(seed, S), CONTRACT) for seed in range(8)]
    assert [each.gaps for each in found] == [False, False, False, True] * 2
    assert all(each.counters >= 10 and each.bytes for each in found)


def test_several_parts_are_counted(core):
    machine = override(S, ["dma.capacity_kib=8"])
    parts = [check(core, machine, random_case(seed, machine), CONTRACT).parts for seed in range(8)]
    assert max(parts) > 1


def test_results_are_kept_and_not_done_again(one_machine, tmp_path, monkeypatch):
    results, told = tmp_path / "deep" / "soak.jsonl", []
    first = soak(1, 6, results=results, progress=lambda *counts: told.append(counts))
    assert [(row["core"], row["first"], row["layers"]) for row in first.rows] == [
        (0, 0, 4),
        (0, 4, 2),
    ]
    assert told == [(0, 6), (4, 6), (6, 6)]
    assert (first.total("layers"), first.total("differences"), first.failures) == (6, 0, [])

    checked = []
    monkeypatch.setattr(module, "check", lambda *args: checked.append(args[2].seed) or check(*args))
    assert soak(1, 6, results=results) == first
    assert checked == []
    # A block that was shorter, and a machine that was not there, are done; the rest stays.
    more = soak(2, 8, results=results)
    assert checked == [4, 5, 6, 7, *range(module.SEEDS, module.SEEDS + 8)]
    assert more.total("layers") == 16
    # A line cut short is no result; neither is one of other sources or of a planted fault.
    lines = results.read_text().splitlines()
    results.write_text("\n".join([lines[0], lines[2], "[1]", "5", lines[3][:-9]]))
    checked.clear()
    soak(1, 8, results=results)
    assert checked == []
    soak(2, 8, results=results)
    assert checked == [*range(module.SEEDS, module.SEEDS + 8)]
    checked.clear()
    soak(2, 8, results=results)
    assert checked == []
    monkeypatch.setattr(module, "sources", lambda *_: "other")
    soak(1, 4, results=results)
    assert checked == [0, 1, 2, 3]


def test_each_layer_has_an_accounting_of_its_own(one_machine, monkeypatch):
    """A failing one is named with it, and the command computes with it."""
    seen = {}

    def noted(core, machine, case, contract):
        seen[case.seed] = machine.dma.capacity_kib
        return check(core, machine, case, contract)

    monkeypatch.setattr(module, "check", noted)
    made = soak(1, 4, fault="requantise")
    sets = {f"dma.capacity_kib={capacity}" if capacity else "" for capacity in seen.values()}
    assert set(made.rows[0]["accountings"]) == sets
    assert len(sets) > 1
    assert made.failures
    for failure in made.failures:
        words = shlex.split(failure["command"])
        capacity = seen[int(words[words.index("--seed") + 1])]
        assert (f"dma.capacity_kib={capacity}" in words) == (capacity is not None)
        assert main(words[3:]) == 1


def test_no_block_is_begun_after_its_time(one_machine, tmp_path):
    assert soak(2, 8, hours=0).rows == []


def test_several_processes_find_what_one_does(core):
    assert soak(2, 2, hours=0, jobs=2).rows == []
    made = soak(2, 2, jobs=2)
    assert [row["core"] for row in made.rows] == [0, 1]
    assert made == soak(2, 2)


def test_an_interrupt_ends_every_process_and_keeps_what_is_done(core, tmp_path):
    def stop(done, of):
        if done:
            raise KeyboardInterrupt

    results = tmp_path / "soak.jsonl"
    with pytest.raises(KeyboardInterrupt):
        soak(2, 2, results=results, jobs=2, progress=stop)
    assert len(results.read_text().splitlines()) == 1
    end = monotonic() + 20
    while active_children() and monotonic() < end:
        sleep(0.05)
    assert active_children() == []


def test_workers_clear_up_and_their_compilers_do_not_ignore_an_interrupt(tmp_path):
    """Terminated, a worker leaves its contexts; an interrupt it leaves to the first process."""
    code = f"""
import os, signal, subprocess, sys
from pathlib import Path
from sinai.hw.verilated import _workplace
from sinai.report.soak import _obey_the_first
_obey_the_first()
with _workplace(Path({str(tmp_path)!r}), "core"):
    os.kill(os.getpid(), signal.SIGINT)
    told = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    print(subprocess.run([sys.executable, "-c", told], capture_output=True, text=True).stdout)
    os.kill(os.getpid(), signal.SIGTERM)
    print("went on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (128 + SIGTERM, ["True"], "")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_terminated_twice_waits_for_its_compilers(tmp_path):
    """By the first process, and by the pool that misses another worker."""
    code = f"""
import os, signal
from concurrent.futures import ThreadPoolExecutor
from threading import Timer
from sinai.report import soak
def compiling(*_):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(os.system, "exec >&- 2>&-; sleep 1; touch {tmp_path}/compiled")
        Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        os.kill(os.getpid(), signal.SIGTERM)
        yield
soak._core = compiling
soak._obey_the_first()
soak._all_of(0, {{}}, "", 0.0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + SIGTERM, "")
    assert [path.name for path in tmp_path.iterdir()] == ["compiled"]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_terminated_the_first_process_ends_the_others(core, tmp_path):
    words = ["--cores", "2", "--layers", "400", "--results", str(tmp_path / "soak.jsonl")]
    with subprocess.Popen(
        [sys.executable, "-m", "sinai.report.soak", *words, "--jobs", "2"],
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None and len(children.read_text().split()) < 3:
            sleep(0.05)  # two workers and the tracker of resources
        process.terminate()
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert b"the same command goes on" in said
    end = monotonic() + 20
    while _group_lives(process.pid) and monotonic() < end:
        sleep(0.05)
    assert not _group_lives(process.pid)


def _group_lives(group):
    try:
        killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_ended_from_outside_is_no_bug_of_ours(core, monkeypatch):
    """As where memory runs out."""

    def killed(done, of):
        for child in active_children():
            child.kill()

    with pytest.raises(InputError, match=r"one of 2 processes was ended .* fewer --jobs"):
        soak(4, 2, jobs=2, progress=killed)


def test_failures_are_counted_and_listed(one_machine, tmp_path, capsys):
    results = tmp_path / "soak.jsonl"
    words = ["--cores", "1", "--layers", "4", "--jobs", "1", "--results", str(results)]
    words += ["--inject", "requantise"]
    assert main(words) == 1
    shown = capsys.readouterr().out
    made = Soak([json.loads(line) for line in results.read_text().splitlines()])
    assert made.total("failed") == 4
    assert len(made.failures) == 3
    for failure in made.failures:
        assert failure["command"].startswith(f"python -m sinai.report.soak --machine {NAME} --")
        assert failure["command"] in shown
    assert main(words[:-2]) == 0
    shown = capsys.readouterr().out
    assert "differences            0  in 0 layers" in shown
    assert "cores                  1  compiled: 1 structured, 0 unstructured" in shown


def test_totals_are_sums_of_rows():
    row = dict.fromkeys(
        ("layers", "split", "gaps", "refused", "counters", "steps", "bytes", "differences"), 2
    )
    row |= {"failed": 0, "failures": [], "preset": NAME, "core": 0}
    rows = [
        {**row, "accountings": ["", "dma.capacity_kib=8"]},
        {**row, "accountings": ["dma.capacity_kib=8", "dma.capacity_kib=9"]},
        {**row, "accountings": [""], "core": 1, "preset": "unstructured-small"},
    ]
    text = str(Soak(rows))
    assert "cores                  2  compiled: 1 structured, 1 unstructured" in text
    assert "           4  a core with an accounting: 2 with resident weights, 2 with" in text
    assert "layers                 6  6 in several parts, 6 with streams that wait; 6 more" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "3"], "--machine and --seed go together"),
        (["--machine", NAME], "--machine and --seed go together"),
        (["--set", "columns=4"], "--machine and --seed go together"),
        (["--machine", NAME, "--seed", "0", "--simpler", "0,x"], "must be numbers from 0"),
        (["--machine", NAME, "--seed", "0", "--simpler", "99"], "no simpler case 99"),
        (["--machine", "none", "--seed", "0"], "no such preset or file"),
        (["--machine", NAME, "--seed", "0", "--inject", "speed"], "must be one of fetch,"),
        (["--cores", "0"], "--cores"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(core, words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_results_that_cannot_be_used_are_named(one_machine, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary: cannot be read as results"):
        soak(1, 4, results=tmp_path / "binary")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"soak.jsonl: cannot be written"):
        soak(1, 4, results=tmp_path / "file" / "soak.jsonl")


def test_a_planted_contract_is_one_cycle_off():
    assert wrong("") is CONTRACT
    assert wrong("tree") == replace(CONTRACT, tree=CONTRACT.tree + 1)
