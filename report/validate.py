"""A trace with operands through RTL, simulator and integer model, layer by layer.

Each layer of each image runs on the compiled Verilog of the machine; every counter, the first and
last issue of every step, and every byte it puts on its output stream are compared. A journal beside
the result keeps what is done, so that an interrupted validation goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.commands import Commands
from ..common.contract import CONTRACT, Contract
from ..common.descriptor import Target
from ..common.errors import InputError
from ..common.integer import LayerRun as Reference
from ..common.integer import run_layer
from ..common.machine import Machine
from ..common.operands import Operands
from ..common.sources import COMPARISON, sources
from ..hw.verilated import VerilatedCore
from ..sim.layer_run import LayerRun
from ..sim.replay import batches_of, placements
from ..traces.schema import Trace
from .run import trace_digest, versions
from .validation import Comparison, compare_layer

__all__ = ["FAULTS", "Case", "Fault", "Validation", "cases", "validate", "write_validation"]

#: Mismatches that validation.json lists in full.
_LISTED = 20


@dataclass(frozen=True)
class Fault:
    """Something wrong on purpose: a contract for the simulator, a change of what it says, or a
    change of what the hardware is fed."""

    meaning: str
    contract: Contract = CONTRACT
    alter: Callable[[LayerRun], LayerRun] | None = None
    spoil: Callable[[np.ndarray, Commands], np.ndarray] | None = None


def _lose_a_stall(run: LayerRun) -> LayerRun:
    cause = max(run.stalls, key=lambda name: run.stalls[name] * (name != "dma"))
    stalls = {**run.stalls, cause: run.stalls[cause] - 1}
    return replace(run, cycles=run.cycles - 1, stalls=stalls)


def _invert_a_wire(stream: np.ndarray, made: Commands) -> np.ndarray:
    """Of whatever is loaded but masks, which the simulator is told too. A single wrong bit need not
    show: behind a padded, a saturated or a noisy value."""
    wrong, at = stream.copy(), 0
    width = made.program.machine.dma.bytes_per_cycle
    for transfer in made.transfers:
        if transfer.loads:
            after = at + transfer.move.words * width
            if transfer.move.target != Target.MASKS:
                wrong[at:after:width] ^= 0x80
            at = after
    return wrong


#: Faults by name.
FAULTS = {
    "latency": Fault(
        "the simulator believes in one more cycle of requantisation",
        contract=replace(CONTRACT, requantise=CONTRACT.requantise + 1),
    ),
    "stall": Fault("the simulator loses a stall cycle of each layer", alter=_lose_a_stall),
    "bit": Fault(
        "bit 7 of every word that the hardware loads, masks apart, is inverted",
        spoil=_invert_a_wire,
    ),
}


@dataclass(frozen=True)
class Case:
    """A layer of a trace and the first image of a batch, by their places there."""

    image: int
    layer: int


@dataclass(frozen=True)
class Validation:
    """What was compared, a row a case: image, layer, and the counts and differences of
    :class:`sinai.report.validation.Comparison`."""

    trace: Trace
    machine: Machine
    fault: str
    rows: tuple[dict[str, Any], ...]
    batch: int = 1

    def total(self, what: str) -> tuple[int, int]:
        """Compared and mismatched "counters", "steps" or "bytes"."""
        kind = what if what == "bytes" else what.removesuffix("s")
        wrong = sum(
            difference["count"]
            for row in self.rows
            for difference in row["differences"]
            if difference["kind"] == kind
        )
        return sum(row[what] for row in self.rows), wrong

    @property
    def mismatched(self) -> int:
        return sum(self.total(what)[1] for what in ("counters", "steps", "bytes"))


def cases(
    trace: Trace,
    images: Sequence[int] | None = None,
    layers: Sequence[str] | None = None,
    batch: int = 1,
) -> list[Case]:
    """The cases of a trace, batch by batch.

    `images` are places in the trace, `layers` names; all by default. A batch has consecutive images
    of the trace, its first one's place names it.

    Raises
    ------
    InputError
        If the trace has no operands, an image or a layer is not there, or there are fewer images
        than a batch; if images of a batch do not follow each other.
    """
    if not trace.manifest.operands:
        raise InputError(
            f"trace {trace.name} has no operands, only masks; make it again with --operands"
        )
    names = [layer.name for layer in trace.layers]
    for name in layers or ():
        if name not in names:
            raise InputError(
                f"trace {trace.name} has no layer {name}; its layers are {', '.join(names)}"
            )
    batches = batches_of(trace, batch, images)
    for picked in batches:
        if picked != list(range(picked[0], picked[0] + batch)):
            raise InputError(
                f"trace {trace.name}: the images of a batch of {batch} must follow each other, not"
                f" be {', '.join(map(str, picked))}; choose others"
            )
    return [
        Case(picked[0], index)
        for picked in batches
        for index, name in enumerate(names)
        if not layers or name in layers
    ]


def validate(
    trace: Trace,
    machine: Machine,
    chosen: Sequence[Case],
    *,
    batch: int = 1,
    fault: str = "",
    core: VerilatedCore | None = None,
    journal: Path | None = None,
    progress: Callable[[Sequence[Case]], Iterator[Case]] = iter,
) -> Validation:
    """Run `chosen` cases of a trace on the hardware and compare.

    Masks of a synthetic trace are loaded into the hardware, for they do not follow from its
    operands; those of a real one are selected by the hardware itself, at the trace's theta.

    Parameters
    ----------
    batch : int
        Images of a case: its own and those that follow.
    fault : str
        One of :data:`FAULTS`, or empty.
    core : VerilatedCore, optional
        Of `machine`; compiled, or taken from the cache, if omitted.
    journal : Path, optional
        File that keeps each case once it is done, and from which such cases are taken. One of
        another trace, machine or program is begun anew.
    progress : callable
        Wraps the cases that are left.

    Raises
    ------
    InputError
        If the scheme does not run on the machine, or a memory is too small.
    MissingError
        If Verilator or a C++ compiler is missing.
    CheckError
        If the hardware reports an error or does not end, or the trace's masks do not follow from
        its operands.
    """
    core = core or VerilatedCore(machine)
    identity = {
        "trace": trace_digest(trace),
        "machine": hashlib.sha256(machine.model_dump_json().encode()).hexdigest(),
        "core": core.digest,
        "sources": sources(*COMPARISON),
        "batch": batch,
        "fault": fault,
        "versions": versions(),
    }
    done = _read_journal(journal, identity)
    planted = FAULTS[fault] if fault else Fault("")
    regular = trace.scheme.dense or trace.scheme.structured
    orders = {} if regular else placements(trace, machine)
    with _open_journal(journal, identity, done) as keep:
        for case in progress([case for case in chosen if case not in done]):
            found = _run(trace, machine, core, case, batch, orders.get(case.layer), planted)
            done[case] = _row(case, found)
            keep(done[case])
    return Validation(trace, machine, fault, tuple(done[case] for case in chosen), batch)


def _run(
    trace: Trace,
    machine: Machine,
    core: VerilatedCore,
    case: Case,
    batch: int,
    order: np.ndarray | None,
    fault: Fault,
) -> Comparison:
    images = [
        _image(trace, case.layer, image, order) for image in range(case.image, case.image + batch)
    ]
    operands, thetas, references = zip(*images, strict=True)
    return compare_layer(
        core,
        machine,
        operands,
        trace.scheme,
        None if thetas[0] is None else thetas,
        references,
        contract=fault.contract,
        spoil=fault.spoil,
        alter=fault.alter,
    )


def _image(
    trace: Trace, index: int, image: int, order: np.ndarray | None
) -> tuple[Operands, int | None, Reference]:
    """Operands of layer `index` and an image, its theta, and the integer model's run."""
    layer, given, scheme = trace.layers[index], trace.operands(index), trace.scheme
    picked = slice(image, image + 1)
    masks = trace.mask(index)[picked].reshape(1, layer.c_out, layer.pixels)
    mask = masks.transpose(0, 2, 1)
    theta = None
    if trace.manifest.theta:
        theta = trace.manifest.theta[index][image]
    inject = trace.synthetic and not scheme.dense
    residual = None if given.residual is None else given.residual[picked]
    reference = run_layer(
        given.spec,
        given.x[picked],
        given.xq[picked],
        residual,
        scheme,
        theta,
        mask if inject else None,
    )
    if not np.array_equal(reference.mask, mask):
        raise InputError(
            f"trace {trace.name}: the mask of layer {layer.name}, image {image}, does not"
            " follow from its operands; export the trace again"
        )
    operands = Operands(
        spec=given.spec,
        x=given.x[image],
        xq=given.xq[image],
        residual=None if residual is None else residual[0],
        mask=mask[0] if inject else None,
        order=order,
    )
    return operands, theta, reference


def _row(case: Case, found: Comparison) -> dict[str, Any]:
    return {
        **asdict(case),
        "name": found.layer,
        "counters": found.counters,
        "steps": found.steps,
        "bytes": found.bytes,
        "differences": [
            {
                "kind": each.kind,
                "name": each.name,
                "rtl": each.rtl,
                "expected": each.expected,
                "count": each.count,
            }
            for each in found.differences
        ],
        "rtl": found.rtl,
        "simulated": found.simulated,
    }


def _read_journal(path: Path | None, identity: Mapping[str, Any]) -> dict[Case, dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break  # cut short in mid-line
    if not rows or rows[0] != identity:
        return {}
    return {Case(row["image"], row["layer"]): row for row in rows[1:]}


class _open_journal:
    """A context in which rows can be kept; the file begins with the identity and what is done."""

    def __init__(self, path: Path | None, identity: Mapping[str, Any], done: Mapping[Case, dict]):
        self.path, self.rows = path, [identity, *done.values()]

    def __enter__(self) -> Callable[[dict], None]:
        if self.path is None:
            return lambda row: None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("w", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); give another place"
            ) from None
        for row in self.rows:
            self._keep(row)
        return self._keep

    def _keep(self, row: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()

    def __exit__(self, *_: object) -> None:
        if self.path is not None:
            self.file.close()


def write_validation(made: Validation, directory: Path, *, command: str = "") -> dict[str, Any]:
    """Write validation.json, validation.csv (RTL's and the simulator's counters of each layer) and
    correlation.png, and return the first."""
    record = _summary(made, command)
    text = json.dumps(record, indent=2, allow_nan=False)
    (directory / "validation.json").write_text(text + "\n", encoding="utf-8")
    table = _table(made)
    table.to_csv(directory / "validation.csv", index=False, lineterminator="\n")
    from .plots import draw_correlation

    draw_correlation(table, _caption(record)).savefig(directory / "correlation.png", dpi=200)
    return record


def _summary(made: Validation, command: str) -> dict[str, Any]:
    (counters, counters_off), (blocks, blocks_off), (size, bytes_off) = (
        made.total(what) for what in ("counters", "steps", "bytes")
    )
    mismatches = [
        {
            "image": row["image"],
            "layer": row["name"],
            "phase": _phase(each),
            "name": f"{each['kind']} {each['name']}",
            "rtl": each["rtl"],
            "integer_model" if each["kind"] == "bytes" else "simulator": each["expected"],
        }
        for row in made.rows
        for each in row["differences"]
    ]
    return {
        "schema": 1,
        "network": made.trace.manifest.network,
        "scheme": str(made.trace.scheme),
        "real_trace": not made.trace.synthetic,
        "trace": made.trace.name,
        "trace_digest": trace_digest(made.trace),
        "machine": made.machine.model_dump(),
        "accounting": "resident" if made.machine.resident else "capacity",
        "fault": made.fault and FAULTS[made.fault].meaning,
        "images": made.batch * len({row["image"] for row in made.rows}),
        "batch": made.batch,
        "layers": len(made.rows),
        "cycles": sum(
            row["rtl"]["edges" if made.machine.resident else "cycles"] for row in made.rows
        ),
        "counters_compared": counters,
        "counters_mismatched": counters_off,
        "blocks_compared": blocks,
        "blocks_mismatched": blocks_off,
        "bytes_compared": size,
        "bytes_mismatched": bytes_off,
        "first_mismatches": mismatches[:_LISTED],
        "command": command,
        "sources": sources(*COMPARISON),
        "versions": versions(),
    }


def _phase(difference: Mapping[str, Any]) -> str:
    if difference["kind"] != "step":
        return ""
    exact = [side[0] for side in (difference["rtl"], difference["expected"]) if side[0] is not None]
    return "EXACT" if exact and exact[0] else "APPROXIMATE"


def _table(made: Validation) -> pd.DataFrame:
    rows = []
    for row in made.rows:
        both = {}
        for name, value in row["rtl"].items():
            both[f"rtl_{name}"], both[f"simulated_{name}"] = value, row["simulated"][name]
        counts = {what: row[what] for what in ("counters", "steps", "bytes")}
        rows.append(
            {"image": row["image"], "layer": row["name"], **counts}
            | {"differences": len(row["differences"])}
            | both
        )
    return pd.DataFrame(rows)


def _of_batch(record: Mapping[str, Any]) -> str:
    return f", batch of {record['batch']}" if record["batch"] > 1 else ""


def _caption(record: Mapping[str, Any]) -> str:
    masks = "real masks" if record["real_trace"] else "synthetic masks and operands"
    wrong = sum(record[f"{what}_mismatched"] for what in ("counters", "blocks", "bytes"))
    planted = f"; planted fault: {record['fault']}" if record["fault"] else ""
    return (
        f"{record['network']}, {record['scheme']}, {masks}, on {record['machine']['name']},"
        f"{_of_batch(record)}, {record['accounting']} accounting: {wrong} differences in"
        f" {record['counters_compared']:,} counters, {record['blocks_compared']:,} block times and"
        f" {record['bytes_compared']:,} bytes{planted}"
    )
