"""Random layers on random machines: RTL, simulator and integer model held equal, for hours.

`make soak`, or `python -m sinai.report.soak --cores 20 --layers 200`. Every counter, the first and
last issue of every step, and every byte are compared. The hardware of a machine, its core, is drawn
and compiled; each layer draws an accounting beside. Both follow from two numbers; a case that
differs is shrunk, and printed as the one command that shows it again. A file of results keeps what
is done, so that a soak goes on where it was.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from time import time
from typing import Any

import click

from ..common.cases import (
    Case,
    accounted_case,
    random_case,
    random_machine,
    simpler,
    simplified,
)
from ..common.contract import CONTRACT, Contract
from ..common.errors import CheckError, InputError, MissingError
from ..common.machine import Machine
from ..common.program import compile_layer
from ..common.sources import COMPARISON, sources
from ..hw.verilated import VerilatedCore
from .options import assignments, machine_from
from .progress import advance, bar
from .status import exit_status
from .validation import compare_layer

__all__ = ["Checked", "Soak", "check", "command", "main", "one_case", "shrink", "soak"]

#: Layers of a core between two lines of the results.
BLOCK = 50

#: Case i of core n has seed n * SEEDS + i.
SEEDS = 1_000_000

#: Cases of a block that are shrunk and listed; all are counted.
_LISTED = 3

#: Steps of a shrinking.
_STEPS = 100

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Checked:
    """What was compared of a case, and what is wrong: differences, or the one error that came of
    it. `parts` are those of its program, `gaps` whether the streams waited."""

    counters: int = 0
    steps: int = 0
    bytes: int = 0
    problems: tuple[str, ...] = ()
    parts: int = 0
    gaps: bool = False


def check(core: VerilatedCore, machine: Machine, case: Case, contract: Contract) -> Checked:
    """Compare a case; in one of four, by its seed, input and output stream wait now and then.

    What goes wrong otherwise, an error of the core or a failing assertion, is a problem of the case
    too; the core is reset then.
    """
    gaps = (0.4, 0.6) if case.seed % 4 == 3 else (0.0, 0.0)
    try:
        found = compare_layer(
            core,
            machine,
            case.operands,
            case.scheme,
            case.theta,
            case.reference(),
            contract=contract,
            gaps=gaps,
            seed=case.seed,
        )
    except MissingError:
        raise
    except Exception as error:
        core.reset()
        return Checked(problems=(f"{type(error).__name__}: {error}",), gaps=any(gaps))
    problems = tuple(str(each) for each in found.differences)
    parts = len(compile_layer(case.layer, machine, case.scheme).parts)
    return Checked(found.counters, found.steps, found.bytes, problems, parts, any(gaps))


def shrink(
    core: VerilatedCore, machine: Machine, case: Case, contract: Contract
) -> tuple[Case, tuple[int, ...]]:
    """Take the first simpler case that still fails, again and again; return the last one and the
    path to it."""
    path: list[int] = []
    for _ in range(_STEPS):
        for index, other in enumerate(simpler(case, machine)):
            if check(core, machine, other, contract).problems:
                case = other
                path.append(index)
                break
        else:
            break
    return case, tuple(path)


def command(
    preset: str, sets: Sequence[str], seed: int, path: tuple[int, ...], fault: str = ""
) -> str:
    """The command that runs one case."""
    words = ["python", "-m", "sinai.report.soak", "--machine", preset]
    for text in sets:
        words += ["--set", text]
    words += ["--seed", str(seed)]
    if path:
        words += ["--simpler", ",".join(map(str, path))]
    return shlex.join([*words, *(["--inject", fault] if fault else [])])


def wrong(fault: str) -> Contract:
    """The contract for the simulator: with one cycle more of `fault`, if that is not empty."""
    if not fault:
        return CONTRACT
    names = [field.name for field in fields(Contract)]
    if fault not in names:
        raise InputError(f"--inject {fault}: must be one of {', '.join(names)}")
    return replace(CONTRACT, **{fault: getattr(CONTRACT, fault) + 1})


def one_case(
    machine: Machine,
    seed: int,
    path: tuple[int, ...] = (),
    contract: Contract = CONTRACT,
    core: VerilatedCore | None = None,
) -> tuple[Case, Checked]:
    """Run the case that `seed` and `path` name on the core of `machine`."""
    case = simplified(random_case(seed, machine), machine, path)
    return case, check(core or VerilatedCore(machine, quick=True), machine, case, contract)


@dataclass(frozen=True)
class Soak:
    """The results of a soak, a row a block of layers."""

    rows: Rows

    def total(self, name: str) -> int:
        return sum(row[name] for row in self.rows)

    @property
    def failures(self) -> Rows:
        """Of each listed failure its command, what the layer is, and the first problems."""
        return [failure for row in self.rows for failure in row["failures"]]

    def __str__(self) -> str:
        cores = {row["core"]: row for row in self.rows}.values()
        structured = sum(row["preset"].startswith("structured") for row in cores)
        machines = {(row["core"], sets) for row in self.rows for sets in row["accountings"]}
        resident = sum(not sets for _, sets in machines)
        lines = [
            f"cores       {len(cores):>12,}  compiled: {structured} structured,"
            f" {len(cores) - structured} unstructured",
            f"machines    {len(machines):>12,}  a core with an accounting: {resident} with resident"
            f" weights, {len(machines) - resident} with dma.capacity_kib",
            f"layers      {self.total('layers'):>12,}  {self.total('split'):,} in several parts,"
            f" {self.total('gaps'):,} with streams that wait; {self.total('refused'):,} more were"
            " too large for their machine and drawn again",
            f"counters    {self.total('counters'):>12,}  compared with the simulator",
            f"steps       {self.total('steps'):>12,}  first and last issues, likewise",
            f"bytes       {self.total('bytes'):>12,}  compared with the integer model",
            f"differences {self.total('differences'):>12,}  in {self.total('failed'):,} layers",
        ]
        for failure in self.failures:
            lines += ["", failure["command"], f"  {failure['case']}"]
            lines += [f"  {problem}" for problem in failure["problems"]]
        return "\n".join(lines)


def soak(
    cores: int,
    layers: int,
    *,
    hours: float = float("inf"),
    results: Path | None = None,
    fault: str = "",
    jobs: int = 1,
    progress: Callable[[int, int], Any] | None = None,
) -> Soak:
    """Compare `layers` cases on each of the random cores 0 to `cores` - 1.

    Parameters
    ----------
    hours : float
        After which no more blocks are begun.
    results : Path, optional
        Rows of blocks that are done are appended to it, and those in it not done again, unless the
        sources have changed since.
    fault : str
        Name of a constant of the contract that the simulator gets wrong.
    jobs : int
        Processes, each with a core at a time; with several, a core's rows come together.
    progress : callable, optional
        Told (layers done, of how many).

    Raises
    ------
    InputError
        If `results` cannot be read or written, or a process is ended from outside.
    """
    wrong(fault)
    identity = {"sources": sources(*COMPARISON, "report/soak.py"), "fault": fault}
    wanted = {
        (number, first): min(BLOCK, layers - first)
        for number in range(cores)
        for first in range(0, layers, BLOCK)
    }
    rows = {
        (row["core"], row["first"]): row
        for row in _read(results)
        if {key: row.get(key) for key in identity} == identity
        and wanted.get((row["core"], row["first"])) == row["layers"]
    }
    done = sum(row["layers"] for row in rows.values())
    tell = progress or (lambda done, of: None)
    tell(done, cores * layers)
    todo: dict[int, dict[int, int]] = {}
    for (number, first), count in wanted.items():
        if (number, first) not in rows:
            todo.setdefault(number, {})[first] = count
    for made in _made(todo, fault, time() + hours * 3600, jobs):
        row = {**identity, **made}
        rows[row["core"], row["first"]] = row
        _append(results, row)
        done += row["layers"]
        tell(done, cores * layers)
    return Soak([rows[key] for key in wanted if key in rows])


def _made(todo: dict[int, dict[int, int]], fault: str, end: float, jobs: int) -> Iterator[Any]:
    """The rows of `todo` (layers by first layer by core) as `jobs` processes make them."""
    if jobs == 1:
        for number, blocks in todo.items():
            yield from _core(number, blocks, fault, end)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _obey_the_first) as pool:
        try:
            given = [pool.submit(_all_of, n, blocks, fault, end) for n, blocks in todo.items()]
            for future in as_completed(given):
                yield from future.result()
        except BrokenProcessPool:
            raise InputError(
                f"one of {jobs} processes was ended from outside, perhaps for want of memory; go on"
                " with fewer --jobs"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():
                child.terminate()
            raise


def _obey_the_first() -> None:
    """An interrupt is for the process that started this one, which terminates it. Both are taken in
    Python, so that compilers do not inherit that they are ignored, and folders are cleared."""

    def leave(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the pool terminates a second time
        warnings.simplefilter("ignore")  # of Amaranth, about designs that are left unfinished
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, leave)


def _all_of(number: int, blocks: dict[int, int], fault: str, end: float) -> Rows:
    try:
        return list(_core(number, blocks, fault, end))
    except SystemExit as left:
        os._exit(left.code)  # the pool would take it for a result, and go on with the next core


def _core(number: int, blocks: dict[int, int], fault: str, end: float) -> Iterator[Any]:
    """Compile core `number` and compare `blocks` on it, none begun after the time `end`."""
    core, contract = None, wrong(fault)
    preset, sets, machine = random_machine(number)
    for first, count in blocks.items():
        if time() >= end:
            return
        core = core or VerilatedCore(machine, quick=True)
        seeds = range(number * SEEDS + first, number * SEEDS + first + count)
        row = {"core": number, "preset": preset, "set": sets, "first": first}
        yield row | _block(core, machine, seeds, contract, (preset, sets, fault))


def _block(
    core: VerilatedCore,
    machine: Machine,
    seeds: range,
    contract: Contract,
    named: tuple[str, list[str], str],
) -> dict[str, Any]:
    """Compare the cases of `seeds`; `named` is how a command names core and fault."""
    preset, sets, fault = named
    counted = dict.fromkeys(
        ("refused", "split", "gaps", "counters", "steps", "bytes", "differences", "failed"), 0
    )
    failures, accountings = [], []
    for seed in seeds:
        accounting, accounted, case = accounted_case(seed, machine)
        accountings.append(" ".join(accounting))
        found = check(core, accounted, case, contract)
        counted["refused"] += case.refused
        counted["split"] += found.parts > 1
        counted["gaps"] += found.gaps
        for what in ("counters", "steps", "bytes"):
            counted[what] += getattr(found, what)
        counted["differences"] += len(found.problems)
        counted["failed"] += bool(found.problems)
        if found.problems and len(failures) < _LISTED:
            least, path = shrink(core, accounted, case, contract)
            problems = check(core, accounted, least, contract).problems[:5]
            line = command(preset, [*sets, *accounting], seed, path, fault)
            failures.append({"command": line, "case": str(least), "problems": list(problems)})
    return {
        "layers": len(seeds),
        **counted,
        "accountings": sorted(set(accountings)),
        "failures": failures,
    }


def _read(path: Path | None) -> Iterator[dict[str, Any]]:
    if path is None or not path.exists():
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"{path}: cannot be read as results of a soak; give another file"
        ) from None
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut short in mid-line
        if isinstance(row, dict):
            yield row


def _append(path: Path | None, row: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line cut short
                    file.write(b"\n")
            file.write(json.dumps(row).encode() + b"\n")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); give another file"
        ) from None


def _path(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        path = tuple(int(word) for word in text.split(",") if word)
    except ValueError:
        path = (-1,)
    if min(path, default=0) < 0:
        raise click.BadParameter(f"{text!r} must be numbers from 0 with commas between them")
    return path


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--cores", default=20, show_default=True, type=click.IntRange(1), metavar="N",
              help="Random cores; even ones are structured, odd ones unstructured.")  # fmt: skip
@click.option("--layers", default=200, show_default=True, type=click.IntRange(1, SEEDS),
              metavar="M", help="Random layers a core, with an accounting each.")  # fmt: skip
@click.option("--hours", default=float("inf"), type=click.FloatRange(0), metavar="H",
              help="Begin nothing after so many hours. No limit by default.")  # fmt: skip
@click.option("--jobs", default=os.cpu_count() or 1, type=click.IntRange(1), metavar="N",
              help="Cores at a time; by default as many as the computer has.")  # fmt: skip
@click.option("--results", default="build/soak.jsonl", show_default=True, metavar="FILE",
              type=click.Path(path_type=Path, dir_okay=False),
              help="What is done; a soak goes on from it.")  # fmt: skip
@click.option("--machine", metavar="MACHINE", help="Run one case on this machine instead.")
@assignments
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Of the one case.")
@click.option("--simpler", "path", default="", callback=_path, metavar="I,J,...",
              help="Which simpler case to take of it, again and again.")  # fmt: skip
@click.option("--inject", "fault", default="", metavar="NAME",
              help="Let the simulator get a constant of the contract wrong by one, to see it"
              " found.")  # fmt: skip
def _command(
    cores: int,
    layers: int,
    hours: float,
    jobs: int,
    results: Path,
    machine: str | None,
    assignments: tuple[str, ...],
    seed: int | None,
    path: tuple[int, ...],
    fault: str,
) -> None:
    """Compare RTL, simulator and integer model on random layers of random machines.

    Exit status 1 if anything differs. Each core is compiled first, for up to a minute, and kept in
    the user's cache, some 2 MB each.
    """
    if (machine is None) != (seed is None) or (machine is None and (assignments or path)):
        raise click.UsageError("--machine and --seed go together, --set and --simpler with them")
    if machine is not None and seed is not None:
        case, found = one_case(machine_from(machine, assignments), seed, path, wrong(fault))
        click.echo(
            f"{case}: {found.counters} counters, {found.steps} steps, {found.bytes} bytes,"
            f" {len(found.problems)} differences"
        )
        for problem in found.problems:
            click.echo(f"  {problem}")
        failed = bool(found.problems)
    else:
        with bar("layers", "layer") as shown:
            made = soak(
                cores,
                layers,
                hours=hours,
                results=results,
                fault=fault,
                jobs=jobs,
                progress=lambda done, of: advance(shown, done, of),
            )
        click.echo(str(made))
        failed = bool(made.total("failed"))
    if failed:
        raise CheckError("RTL, simulator and integer model differ")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (of the process by default) and return its exit status."""
    # Terminated, it ends its processes as if interrupted.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return exit_status(
            _command, "soak", argv, interrupted="interrupted; the same command goes on"
        )
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    raise SystemExit(main())
