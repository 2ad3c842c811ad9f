"""The one machine description: frozen, checked when made, YAML in and out, with the presets.

RTL generator, program compiler, simulator and energy model read the machine from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import InputError
from .layer import ceil_div

__all__ = [
    "PRESETS",
    "TAP_NIBBLES",
    "TAP_PIXELS",
    "Dma",
    "Machine",
    "Memories",
    "Memory",
    "Rpu",
    "load_machine",
    "override",
]


#: What the tap memory of the projection unit holds, for projection `tap`: nibbles of an input pixel
#: (k / taps; at most a beat of p besides), and input pixels (kernel * w_in).
TAP_NIBBLES, TAP_PIXELS = 64, 2048


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _power_of_two(value: int, low: int, high: int) -> int:
    if not low <= value <= high or value & (value - 1):
        raise ValueError(f"must be a power of two between {low} and {high}")
    return value


class Rpu(_Frozen):
    """Random projection unit: `rows` x `elements` ternary adders, no zero skipping.

    A tile of P (rows x elements, 2 bit each) is held while it serves `hold` pixels; the next tile
    loads meanwhile through a port of `port_bits` a cycle. x^Q is gathered a word a cycle into a
    buffer of `hold` x `elements` nibbles, and the sums of `hold` x `depth` rows have a memory.

    Parameters
    ----------
    rows, elements : int
        Powers of two, 1 to 1024 and 16 to 4096.
    hold : int
        Pixels, 1 to 1024.
    port_bits : int
        Of the memory that holds P; power of two, 2 to 65536.
    depth : int
        Largest k of a layer (k / taps for projection `tap`); a multiple of `rows`, up to 4096.
    """

    rows: int = 32
    elements: int = 512
    hold: Annotated[int, Field(ge=1, le=1024)] = 16
    port_bits: int = 2048
    depth: Annotated[int, Field(ge=1, le=4096)] = 512

    @field_validator("rows")
    @classmethod
    def _check_rows(cls, value: int) -> int:
        return _power_of_two(value, 1, 1024)

    @field_validator("elements")
    @classmethod
    def _check_elements(cls, value: int) -> int:
        return _power_of_two(value, 16, 4096)

    @field_validator("port_bits")
    @classmethod
    def _check_port(cls, value: int) -> int:
        return _power_of_two(value, 2, 1 << 16)

    @model_validator(mode="after")
    def _check_tile(self) -> Rpu:
        if self.depth % self.rows:
            raise ValueError(f"depth must be a multiple of rows = {self.rows}, not {self.depth}")
        if self.port_bits > 2 * self.rows * self.elements:
            raise ValueError(
                f"port_bits must be at most {2 * self.rows * self.elements}, a tile of P, not"
                f" {self.port_bits}"
            )
        return self

    @property
    def word(self) -> int:
        """Q, nibbles of an x^Q word."""
        return min(64, self.elements)

    @property
    def load_cycles(self) -> int:
        """Cycles to load one tile of P."""
        return ceil_div(2 * self.rows * self.elements, self.port_bits)


class Memory(_Frozen):
    """An SRAM: its capacity and the macros it is built of.

    Each bank is a row of macros wide enough for a word and as many deep as the capacity asks; one
    macro row is active in an access.
    """

    capacity_kib: Annotated[int, Field(ge=1, le=1 << 20)]
    macro_kib: Literal[1, 2, 4, 8, 16, 32, 64, 128, 256]


class Memories(_Frozen):
    """Capacities and macros of every memory. `device` and `temperature_k` pick the rows of the
    CACTI table; see docs/energy.md for what the device types mean.

    `device` is the type of the cells and, with ``-hp`` behind, of a faster periphery: high
    performance, low operating power or low standby power. The table has 350 K for two of them.
    """

    device: Literal["itrs-hp", "itrs-lop", "itrs-lop-hp", "itrs-lstp", "itrs-lstp-hp"] = "itrs-lop"
    temperature_k: Literal[300, 350] = 300
    weights: Memory = Memory(capacity_kib=8192, macro_kib=32)
    x: Memory = Memory(capacity_kib=4096, macro_kib=32)
    y: Memory = Memory(capacity_kib=2048, macro_kib=32)
    residual: Memory = Memory(capacity_kib=4096, macro_kib=32)
    xq: Memory = Memory(capacity_kib=1600, macro_kib=16)
    p: Memory = Memory(capacity_kib=256, macro_kib=8)
    projection: Memory = Memory(capacity_kib=512, macro_kib=32)
    parameters: Memory = Memory(capacity_kib=48, macro_kib=4)
    masks: Memory = Memory(capacity_kib=64, macro_kib=4)

    @model_validator(mode="after")
    def _check_temperature(self) -> Memories:
        if self.temperature_k == 350 and self.device not in ("itrs-hp", "itrs-lstp"):
            raise ValueError(
                f"temperature_k must be 300 for device {self.device}, not 350; 350 exists for"
                " itrs-hp and itrs-lstp"
            )
        return self


class Dma(_Frozen):
    """Off-chip accounting.

    Parameters
    ----------
    bytes_per_cycle : int
        Width of the stream, a power of two up to 1024; in `resident` accounting it only sets
        cycles_load and cycles_store.
    capacity_kib : int or None
        None: `resident`, the store holds the layer, loads and stores are outside the latency.
        A number: on-chip store of that size; weights, inputs and outputs stream through it while
        the machine computes, and the cycles it waits for them count.
    """

    bytes_per_cycle: int = 64
    capacity_kib: Annotated[int, Field(ge=1, le=1 << 20)] | None = None

    @field_validator("bytes_per_cycle")
    @classmethod
    def _check_width(cls, value: int) -> int:
        return _power_of_two(value, 1, 1024)


class Machine(_Frozen):
    """The accelerator, unstructured (U) or structured (S).

    Parameters
    ----------
    name : str
        Shown in results.
    kind : {"unstructured", "structured"}
        U: lanes with a row each and a window of pixels. S: groups of 8 channels a lane, columns of
        pixels.
    lanes : int
        V, power of two, 1 to 64.
    pses : int
        w, precision-scaling elements of a VPU: words of 16 bit a beat. Power of two, 1 to 64.
    columns : int
        T, pixels computed side by side; power of two, 1 to 64. 1 on U.
    accumulators : int
        R of each VPU; power of two, 8 to 256.
    weight_words : int
        beta, weight words that a lane reads in a cycle; 1, 2, 4 or 8. 1 on U.
    window : int
        W, pixels whose x words a U machine holds; power of two, 1 to 64. 1 on S.
    collector : int
        Z, pixel batches of approximate values that S holds for ranking; 1 to 16. 1 on U.
    clock_ns : float
        Clock period, in nanoseconds, 0.1 to 100.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    kind: Literal["unstructured", "structured"]
    lanes: int
    pses: int
    columns: int = 1
    accumulators: int = 32
    weight_words: int = 1
    window: int = 1
    collector: Annotated[int, Field(ge=1, le=16)] = 1
    clock_ns: Annotated[float, Field(ge=0.1, le=100, strict=False)] = 2.0
    rpu: Rpu = Rpu()
    memories: Memories = Memories()
    dma: Dma = Dma()

    @field_validator("lanes", "pses", "columns", "window")
    @classmethod
    def _check_counts(cls, value: int) -> int:
        return _power_of_two(value, 1, 64)

    @field_validator("accumulators")
    @classmethod
    def _check_accumulators(cls, value: int) -> int:
        return _power_of_two(value, 8, 256)

    @field_validator("weight_words")
    @classmethod
    def _check_weight_words(cls, value: int) -> int:
        return _power_of_two(value, 1, 8)

    @model_validator(mode="after")
    def _check_kind(self) -> Machine:
        if self.kind == "unstructured":
            for field in ("columns", "weight_words", "collector"):
                if getattr(self, field) != 1:
                    raise ValueError(
                        f"{field} must be 1 on an unstructured machine, not {getattr(self, field)}"
                    )
        elif self.window != 1:
            raise ValueError(f"window must be 1 on a structured machine, not {self.window}")
        return self

    @model_validator(mode="after")
    def _check_projection(self) -> Machine:
        if self.rpu.rows > 16 * self.pses:
            raise ValueError(
                f"rpu.rows must be at most the {16 * self.pses} nibbles of a beat of p, not"
                f" {self.rpu.rows}"
            )
        return self

    @property
    def unstructured(self) -> bool:
        return self.kind == "unstructured"

    @property
    def vpus(self) -> int:
        """V * T."""
        return self.lanes * self.columns

    @property
    def multipliers(self) -> int:
        """4-bit multipliers: sixteen a PSE."""
        return 16 * self.pses * self.vpus

    @property
    def channels_side_by_side(self) -> int:
        """Channels of one pixel in flight: V on U, the supergroup of 8 V on S."""
        return self.lanes if self.unstructured else 8 * self.lanes

    @property
    def clock_hz(self) -> float:
        return 1e9 / self.clock_ns

    @property
    def resident(self) -> bool:
        return self.dma.capacity_kib is None

    def word_bits(self, memory: str) -> int:
        """Bits that one access of a bank of `memory` moves; the unit of the simulator's counts.

        weights, x: one word of w 16-bit values. y, residual: 64 bits, of which an access moves one
        value; every vector unit has a bank of its own. xq: a word of the projection unit. p: a beat
        of 16 w nibbles. projection: the port of the RPU. parameters: M, b, M~, b~, a, c of a
        channel. masks: 64 bits of a lane on U, eight bits of every vector unit on S.
        """
        return {
            "weights": 16 * self.pses,
            "x": 16 * self.pses,
            "y": 64,
            "residual": 64,
            "xq": 4 * self.rpu.word,
            "p": 64 * self.pses,
            "projection": self.rpu.port_bits,
            "parameters": 128,
            "masks": 64 if self.unstructured else 8 * self.vpus,
        }[memory]

    def to_yaml(self) -> str:
        """The description as YAML that :func:`load_machine` reads back unchanged."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


#: Memories of the small machines: enough for the layers of a test.
_SMALL = Memories(
    weights=Memory(capacity_kib=256, macro_kib=8),
    x=Memory(capacity_kib=64, macro_kib=8),
    y=Memory(capacity_kib=64, macro_kib=8),
    residual=Memory(capacity_kib=64, macro_kib=8),
    xq=Memory(capacity_kib=32, macro_kib=8),
    p=Memory(capacity_kib=16, macro_kib=8),
    projection=Memory(capacity_kib=64, macro_kib=8),
    parameters=Memory(capacity_kib=16, macro_kib=4),
    masks=Memory(capacity_kib=8, macro_kib=4),
)

#: The published machines (docs/machine.md) and small ones of the same kinds for RTL tests.
PRESETS: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine(name="unstructured", kind="unstructured", lanes=16, pses=32, window=16),
        Machine(name="structured", kind="structured", lanes=4, pses=16, columns=8, collector=4),
        Machine(
            name="structured-expanded",
            kind="structured",
            lanes=4,
            pses=16,
            columns=16,
            weight_words=2,
            collector=4,
        ),
        Machine(
            name="unstructured-small",
            kind="unstructured",
            lanes=4,
            pses=4,
            accumulators=8,
            window=2,
            rpu=Rpu(rows=4, elements=16, hold=4, port_bits=64, depth=256),
            memories=_SMALL,
            dma=Dma(bytes_per_cycle=8),
        ),
        Machine(
            name="structured-small",
            kind="structured",
            lanes=2,
            pses=4,
            columns=2,
            accumulators=8,
            collector=4,
            rpu=Rpu(rows=4, elements=16, hold=4, port_bits=64, depth=256),
            memories=_SMALL,
            dma=Dma(bytes_per_cycle=8),
        ),
    )
}


def load_machine(source: str) -> Machine:
    """Return a preset by name, or the machine that a YAML file describes.

    Raises
    ------
    InputError
        If there is neither; if the file is no YAML mapping; if a key is unknown, missing or out of
        range.
    """
    if source in PRESETS:
        return PRESETS[source]
    path = Path(source)
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        raise InputError(
            f"machine {source!r}: no such preset or file; presets are {', '.join(PRESETS)},"
            " anything else must be a YAML file"
        )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(
            f"{source}: cannot be read ({reason}); give a preset or a YAML file"
        ) from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}: " if where else ""
        raise InputError(
            f"{source}: {line}not valid YAML ({getattr(error, 'problem', error)})"
        ) from None
    if not isinstance(data, dict):
        raise InputError(
            f"{source}: must be a mapping of keys such as lanes and pses, not {data!r}"
        )
    return _checked(data, source)


def override(machine: Machine, assignments: list[str]) -> Machine:
    """Return `machine` with ``key.subkey=value`` assignments (values in YAML) applied.

    Raises
    ------
    InputError
        If an assignment has no ``=``, names no key of the description or has a bad value.
    """
    data = machine.model_dump()
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: must be KEY=VALUE, for example dma.bytes_per_cycle=16")
        node = data
        *parents, leaf = key.strip().split(".")
        for name in parents:
            node = node.get(name) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            known = ", ".join(node) if isinstance(node, dict) else ", ".join(data)
            raise InputError(f"--set {text}: no key {key!r} in a machine; keys here are {known}")
        try:
            node[leaf] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {text}: {value!r} is not a YAML value") from None
    return _checked(data, "--set")


def _checked(data: dict[str, Any], source: str) -> Machine:
    """Validate, turning pydantic's report into one line a fault."""
    try:
        return Machine.model_validate(data)
    except ValidationError as error:
        raise InputError("\n".join(_sentence(source, fault) for fault in error.errors())) from None


def _sentence(source: str, fault: Any) -> str:
    field = ".".join(str(part) for part in fault["loc"] if part != "constrained-int")
    value, context = fault["input"], fault.get("ctx", {})
    match fault["type"]:
        case "extra_forbidden":
            return f"{source}: unknown key {field} (value {value!r}); {_known_keys(field)}"
        case "missing":
            return f"{source}: key {field} is missing; {_known_keys(field)}"
        case "value_error" if isinstance(value, dict):  # a rule over several keys
            return f"{source}: {field}{'.' if field else ''}{context['error']}"
        case "value_error":
            return f"{source}: {field} {context['error']}, not {value!r}"
        case "greater_than_equal":
            return f"{source}: {field} must be at least {context['ge']}, not {value!r}"
        case "less_than_equal":
            return f"{source}: {field} must be at most {context['le']}, not {value!r}"
        case "literal_error":
            return f"{source}: {field} must be one of {context['expected']}, not {value!r}"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{source}: {field}: {message}, not {value!r}"


def _known_keys(field: str) -> str:
    model: Any = Machine
    for part in field.split(".")[:-1]:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    return f"known keys are {', '.join(model.model_fields)}"
