"""`sinai validate`: a trace through hardware, simulator and integer model."""

import json

import numpy as np
import pandas as pd
import pytest

from sinai.common.errors import InputError, MissingError
from sinai.common.layer import Layer
from sinai.common.machine import PRESETS, override
from sinai.hw.verilated import VerilatedCore
from sinai.report import validate as proof
from sinai.report.cli import main
from sinai.traces.schema import make
from sinai.traces.synth import synthesise

NAMES = ("structured-small", "unstructured-small")
SCHEMES = {"structured-small": "structured:6:8", "unstructured-small": "unstructured:0.7"}


def layer(name, c_in, c_out, **more):
    given = {"kernel": 3, "stride": 1, "padding": 1, "h_in": 6, "w_in": 6, "k": 20, **more}
    return Layer(name=name, c_in=c_in, c_out=c_out, projection_nonzeros=9, **given)


LAYERS = (
    layer("one", 3, 17, unsigned_input=True),
    layer("two", 17, 12, residual=True, joined="stage"),
    layer("three", 12, 9, kernel=1, padding=0, k=12),
)


@pytest.fixture(scope="module")
def cores():
    try:
        return {name: VerilatedCore(PRESETS[name]) for name in NAMES}
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def traces():
    return {
        name: synthesise("three", scheme, 2, layers=LAYERS, operands=True)
        for name, scheme in SCHEMES.items()
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changes", [[], ["dma.capacity_kib=16"]], ids=["resident", "capacity"])
def test_nothing_differs(cores, traces, name, changes):
    """In both accountings, on one and the same hardware."""
    machine = override(PRESETS[name], changes)
    trace = traces[name]
    made = proof.validate(trace, machine, proof.cases(trace), core=cores[name])
    assert made.mismatched == 0, [row["differences"][:3] for row in made.rows]
    assert len(made.rows) == 6
    assert made.total("counters") == (6 * 15, 0)
    # y and yq of every neuron, s of the joined layer, of two images.
    neurons = [each.neurons for each in LAYERS]
    assert made.total("bytes") == (2 * (3 * sum(neurons) + 2 * neurons[1]), 0)
    assert made.total("steps")[0] > 4 * len(LAYERS)


@pytest.mark.parametrize("fault", proof.FAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_planted_faults_are_seen(cores, traces, name, fault):
    trace = traces[name]
    chosen = proof.cases(trace, images=[0])
    made = proof.validate(trace, PRESETS[name], chosen, fault=fault, core=cores[name])
    assert all(row["differences"] for row in made.rows)
    kinds = {each["kind"] for row in made.rows for each in row["differences"]}
    # A wrong latency moves steps too, where they wait for what it delays.
    assert kinds - {"step"} == ({"bytes"} if fault == "bit" else {"counter"})


def test_a_journal_is_gone_on_with(cores, traces, tmp_path):
    """What is done is not done again; of another trace, or with another fault, all is."""
    name, journal = NAMES[0], tmp_path / "journal"
    trace, chosen = traces[name], proof.cases(traces[name])
    seen = []

    def watch(left, stop=99):
        for index, case in enumerate(left):
            if index == stop:
                raise KeyboardInterrupt
            seen.append(case)
            yield case

    def run(**more):
        seen.clear()
        options = {"core": cores[name], "journal": journal, "progress": watch} | more
        return proof.validate(trace, PRESETS[name], chosen, **options)

    with pytest.raises(KeyboardInterrupt):
        run(progress=lambda left: watch(left, stop=2))
    assert seen == chosen[:2]
    with journal.open("a") as file:
        file.write('{"image": 0, "lay')  # killed in mid-line
    whole = run()
    assert seen == chosen[2:]
    assert whole.rows == run().rows
    assert seen == []
    run(fault="stall")
    assert seen == chosen


def test_masks_that_do_not_follow_are_refused(cores, traces):
    """A real trace whose masks are not those of its operands would prove nothing."""
    name = NAMES[0]
    trace = traces[name]
    manifest = trace.manifest.model_copy(update={"synthetic": False})
    masks = [trace.mask(index) for index in range(3)]
    real = make(manifest, masks, None, [trace.operands(index) for index in range(3)])
    with pytest.raises(InputError, match="mask of layer one, image 0, does not follow"):
        proof.validate(real, PRESETS[name], proof.cases(real), core=cores[name])


def test_command(cores, traces, tmp_path, capsys):
    path = tmp_path / "three.npz"
    traces[NAMES[0]].save(path)
    command = ["validate", str(path), "--machine", NAMES[0], "--image", "1"]
    assert main([*command, "-o", str(tmp_path / "good")]) == 0
    out = capsys.readouterr().out
    assert "3 layer(s) of 1 image(s)" in out
    assert "45 compared with the simulator, 0 differ" in out
    record = json.loads((tmp_path / "good" / "validation.json").read_text())
    assert (record["counters_mismatched"], record["blocks_mismatched"]) == (0, 0)
    assert record["bytes_mismatched"] == 0 < record["bytes_compared"]
    assert record["real_trace"] is False
    table = pd.read_csv(tmp_path / "good" / "validation.csv")
    assert table["layer"].tolist() == ["one", "two", "three"]
    np.testing.assert_array_equal(table["rtl_edges"], table["simulated_edges"])
    assert table["rtl_edges"].sum() == record["cycles"]
    assert (tmp_path / "good" / "correlation.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".good*"))

    wrong = ["--inject", "latency", "--layers", "two", "-o", str(tmp_path / "bad")]
    assert main([*command, *wrong]) == 1
    shown = capsys.readouterr()
    assert "planted" in shown.out
    assert "RTL 12, simulator 13" in shown.out
    assert "of the values compared differ" in shown.err
    record = json.loads((tmp_path / "bad" / "validation.json").read_text())
    first = record["first_mismatches"][0]
    assert (first["layer"], first["name"]) == ("two", "counter stall_drain")
    assert first["simulator"] == first["rtl"] + 1


def test_refusals(tmp_path, traces, capsys):
    bare = tmp_path / "bare.npz"
    synthesise("three", "structured:6:8", layers=LAYERS).save(bare)
    path = tmp_path / "three.npz"
    traces[NAMES[0]].save(path)
    for words, says in (
        ([str(bare)], "trace bare has no operands, only masks; make it again with --operands"),
        ([str(path), "--layers", "two,four"], "no layer four; its layers are one, two, three"),
        ([str(path), "--image", "2"], "image must be between 0 and 1, not 2"),
    ):
        command = ["validate", *words, "--machine", NAMES[0], "-o", str(tmp_path / "out")]
        assert main(command) == 2
        assert says in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
