"""timeline.json: what the Trace Event format asks for, and that it tells what the run was."""

import json
from collections import Counter

import pytest
import yaml

from sinai.common.machine import PRESETS, override
from sinai.report.cli import main
from sinai.report.run import write_run
from sinai.sim import simulate

STREAMED = ["dma.capacity_kib=16", "dma.bytes_per_cycle=2"]


@pytest.mark.parametrize("name", ["unstructured-small", "structured-small"])
@pytest.mark.parametrize("changes", [[], STREAMED])
def test_timeline_is_a_trace_of_the_run(name, changes, trace_of, tmp_path):
    machine = override(PRESETS[name], changes)
    result = simulate(trace_of(), machine, engine="stepped", timeline=True)
    write_run(result, tmp_path)
    written = json.loads((tmp_path / "timeline.json").read_text(encoding="utf-8"))
    assert written["displayTimeUnit"] in ("ms", "ns")
    assert written["otherData"]["time"] == "1 us = 1 cycle"
    assert written["otherData"]["synthetic"] is True
    events = written["traceEvents"]
    named, rows = {}, {}
    for event in events:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "M":
            if event["name"].endswith("_name"):
                assert isinstance(event["args"]["name"], str)
                named[event["pid"], event["tid"]] = event["args"]["name"]
            continue
        assert event["ph"] == "X"
        assert isinstance(event["ts"], int)
        assert event["ts"] >= 0
        assert event["dur"] > 0
        rows.setdefault((event["pid"], event["tid"]), []).append(event)
    # Every row has a name and belongs to a process with one; complete events of a row do not cross.
    assert rows.keys() < named.keys()
    assert {pid for pid, tid in named if tid == 0} == {0, 1}
    for spans in rows.values():
        spans.sort(key=lambda event: event["ts"])
        ends = [event["ts"] + event["dur"] for event in spans]
        assert all(end <= after["ts"] for end, after in zip(ends, spans[1:], strict=False))
    for image, layers in result.layers.groupby("image"):
        mine = [event for event in events if event["ph"] == "X" and event["pid"] == image]
        blocks = [event for event in mine if event["cat"] == "layers"]
        assert [event["name"] for event in blocks] == layers["layer"].tolist()
        assert [event["dur"] for event in blocks] == layers["cycles"].tolist()
        assert max(event["ts"] + event["dur"] for event in mine) == layers["cycles"].sum()
        stalls = Counter()
        for event in mine:
            if event["cat"] == "stalls":
                stalls[event["name"]] += event["dur"]
        expected = layers[[n for n in layers if n.startswith("stall_")]].sum()
        assert stalls == {
            column.removeprefix("stall_"): value for column, value in expected.items() if value
        }
        assert ("transfers" in {event["cat"] for event in mine}) == bool(changes)


@pytest.fixture
def masks(trace_of, tmp_path):
    trace_of().save(tmp_path / "masks.npz")
    return tmp_path / "masks.npz"


def test_run_with_a_timeline_is_stepped(masks, tmp_path, capsys):
    words = ["run", str(masks), "--machine", "structured-small", "--image", "1"]
    assert main([*words, "-o", str(tmp_path / "fast"), "--json"]) == 0
    fast = capsys.readouterr().out
    assert main([*words, "--timeline", "-o", str(tmp_path / "seen"), "--json"]) == 0
    assert capsys.readouterr().out == fast
    assert not (tmp_path / "fast" / "timeline.json").exists()
    events = json.loads((tmp_path / "seen" / "timeline.json").read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {1}
    engines = [
        yaml.safe_load((tmp_path / name / "config.yaml").read_text())["engine"]
        for name in ("fast", "seen")
    ]
    assert engines == ["fast", "stepped"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--engine fast --timeline", "--timeline comes from --engine stepped"),
        ("--ideal --timeline", "--ideal is a bound and has no --timeline"),
        ("--engine slow", "'slow' is not one of 'fast', 'stepped'"),
    ],
)
def test_what_has_no_timeline_is_refused(words, message, masks, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["run", str(masks), "--machine", "unstructured-small", *words.split(), "-o", str(out)]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
