"""Batches: RTL against simulator, to the cycle, and integer model, to the bit; and what a batch of
images means for every figure of a run."""

import json

import numpy as np
import pandas as pd
import pytest

from sinai.common.cases import companions, random_case
from sinai.common.errors import InputError, MissingError
from sinai.common.machine import PRESETS, override
from sinai.common.program import compile_layer
from sinai.hw.verilated import VerilatedCore
from sinai.report import validate as proof
from sinai.report.cli import main
from sinai.report.energy import energy, ert
from sinai.report.figure5 import figure5
from sinai.report.points import Job, points
from sinai.report.run import summary
from sinai.report.sweeps import cases, sweeps
from sinai.report.validation import compare_layer
from sinai.sim import simulate
from sinai.traces.schema import bundled, load
from sinai.traces.synth import synthesise

#: A capacity at which most layers have several parts.
CORES = {"structured-small": 10, "unstructured-small": 5}
#: Batches of each core and accounting.
CASES = 40


@pytest.fixture(scope="module")
def cores():
    try:
        return {name: VerilatedCore(PRESETS[name]) for name in CORES}
    except MissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("streams", [False, True], ids=["resident", "capacity"])
@pytest.mark.parametrize("name", CORES)
def test_hardware_simulator_and_integer_model_agree(cores, name, streams):
    """Random layers over 2 to 5 images, each with its own inputs, masks and theta."""
    machine = override(PRESETS[name], [f"dma.capacity_kib={CORES[name]}"] if streams else [])
    together = held = split = 0
    for seed in range(70_000 + 1000 * streams, 70_000 + 1000 * streams + CASES):
        batch = companions(random_case(seed, machine), machine, 2 + seed % 4)
        first = batch[0]
        try:
            program = compile_layer(first.layer, machine, first.scheme, len(batch))
        except InputError:
            continue
        found = compare_layer(
            cores[name],
            machine,
            [case.operands for case in batch],
            first.scheme,
            None if first.theta is None else [case.theta for case in batch],
            [case.reference() for case in batch],
            gaps=(0.3, 0.5) if seed % 4 == 3 else (0.0, 0.0),
            seed=seed,
        )
        assert not found.differences, (first, len(batch), program.together, found.differences[:3])
        assert found.bytes >= (3 - first.scheme.dense) * len(batch) * first.layer.neurons
        together += program.together > 1
        split += len(program.parts) > len(batch) // program.together
        loads = [move.target for part in program.parts for move in part.place.loads]
        held += loads.count(0) < len(program.parts)
    assert held > CASES / 4
    assert together > CASES / 10 or machine.unstructured
    assert split > CASES / 4 or not streams


def test_a_wrong_theta_of_one_image_shows(cores):
    """The thresholds of the images are really their own."""
    machine = PRESETS["unstructured-small"]
    seeds = (seed for seed in range(100) if random_case(seed, machine).theta is not None)
    seen = 0
    for seed in list(seeds)[:6]:
        batch = companions(random_case(seed, machine), machine, 2)
        thetas = [batch[0].theta, 32768 if batch[1].theta < 0 else -32768]
        found = compare_layer(
            cores["unstructured-small"],
            machine,
            [case.operands for case in batch],
            batch[0].scheme,
            thetas,
            [case.reference() for case in batch],
        )
        seen += any(each.kind == "bytes" for each in found.differences)
    assert seen >= 1


@pytest.fixture(scope="module")
def trace():
    return synthesise("tiny", "structured:6:8", 4, operands=True)


def test_validate_a_trace_in_batches(cores, trace, tmp_path, capsys):
    path = tmp_path / "tiny.npz"
    trace.save(path)
    command = ["validate", str(path), "--machine", "structured-small", "--batch", "2"]
    layers = ",".join(layer.name for layer in trace.layers[:2])
    made = tmp_path / "made"
    assert main([*command, "--layers", layers, "-o", str(made)]) == 0
    assert "4 image(s) in batches of 2" in capsys.readouterr().out
    record = json.loads((made / "validation.json").read_text())
    assert (record["batch"], record["images"], record["layers"]) == (2, 4, 4)
    table = pd.read_csv(made / "validation.csv")
    assert table["image"].tolist() == [0, 0, 2, 2]
    for fault in proof.FAULTS:
        chosen = proof.cases(trace, [0, 1], [trace.layers[1].name], 2)
        wrong = proof.validate(
            trace,
            PRESETS["structured-small"],
            chosen,
            batch=2,
            fault=fault,
            core=cores["structured-small"],
        )
        assert wrong.mismatched > 0


def test_images_of_a_batch_follow_each_other(trace):
    with pytest.raises(InputError, match="must follow each other, not be 0, 2"):
        proof.cases(trace, [0, 2], None, 2)


def test_too_few_images_are_said_in_a_sentence(trace, tmp_path, capsys):
    path = tmp_path / "tiny.npz"
    trace.save(path)
    for verb in ("run", "validate"):
        command = [verb, str(path), "--machine", "structured-small", "--batch", "5"]
        assert main([*command, "-o", str(tmp_path / verb)]) == 2
        assert "batch must be between 1 and the 4 image(s)" in capsys.readouterr().err
        assert not (tmp_path / verb).exists()


@pytest.mark.parametrize("machine", ["structured", "unstructured"])
def test_figures_are_of_a_batch(machine):
    """Energy is counts times table, EDP is energy times latency, both of all images of a batch;
    images left over are not used."""
    scheme = "structured:7:8" if machine == "structured" else "unstructured:0.875"
    made = simulate(synthesise("tiny", scheme, 5), PRESETS[machine], batch=2)
    found = summary(made)
    assert (found["batch"], found["images"]) == (2, 4)
    assert made.layers["image"].unique().tolist() == [0, 2]
    table, clock = ert(PRESETS[machine]), PRESETS[machine].clock_ns
    leakage = table["sram_leakage.cycle"].pj + table["logic_leakage.cycle"].pj
    for first in (0, 2):
        rows = (made.layers["image"] == first).to_numpy()
        events = made.counts[rows].sum()
        cycles = made.layers[rows]["cycles"].sum()
        expected = sum(events[name] * table[name].pj for name in events.index if name in table)
        expected += cycles * leakage
        assert energy(made)[rows]["energy_pj"].sum() == pytest.approx(expected, rel=1e-12)
    by_batch = energy(made)["energy_pj"].groupby(made.layers["image"]).sum()
    seconds = made.layers.groupby("image")["cycles"].sum() * clock * 1e-9
    assert found["latency_s"] == pytest.approx(seconds.mean(), rel=1e-12)
    assert found["edp_js"] == pytest.approx((by_batch * 1e-12 * seconds).mean(), rel=1e-12)
    single = simulate(synthesise("tiny", scheme, 5), PRESETS[machine], images=[0])
    one = summary(single)
    assert found["macs16"] == pytest.approx(2 * one["macs16"], rel=0.02)
    assert found["macs4"] == 2 * one["macs4"]
    # Weights, parameters and P come once for both images; im2col rows may pack P denser.
    for name in ("weights", "parameters", "projection"):
        written = made.counts[f"{name}.write"]
        assert 0 < written.sum() <= 2 * single.counts[f"{name}.write"].sum()


def test_the_ideal_bound_is_of_a_batch():
    """ceil of the essential dot products of all images over the lanes, and of all approximate."""
    trace, machine = synthesise("tiny", "unstructured:0.875", 3), PRESETS["unstructured"]
    made = simulate(trace, machine, batch=3, ideal=True).layers
    for index, layer in enumerate(trace.layers):
        essential = int(trace.mask(index).sum()) * layer.beats(machine.pses)
        rough = 3 * layer.neurons * layer.approximate_beats(machine.pses)
        expected = -(-essential // machine.lanes) + -(-rough // machine.lanes)
        assert made["cycles"][index] == expected


def test_bitops_and_noise_of_a_point_do_not_depend_on_the_batch():
    one, two = (points(Job("tiny", "structured:6:8", batch=batch))[0] for batch in (1, 2))
    assert two["bitops"] == pytest.approx(2 * one["bitops"])
    assert two["noise"] == one["noise"]
    assert two["images"] == 2


def test_run_and_figure_say_the_batch(tmp_path, capsys):
    command = ["run", "resnet18-structured-7-8", "--machine", "structured", "--batch", "4"]
    assert main([*command, "-o", str(tmp_path / "run")]) == 0
    assert "in batches of 4" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["batch"] == 4
    assert "batch: 4" in (tmp_path / "run" / "config.yaml").read_text()
    made = figure5(
        tmp_path / "figure",
        networks=["tiny"],
        batch=2,
        with_sweeps=False,
        workers=1,
        progress=False,
    )
    assert made["batch"] == 2
    assert set(pd.read_csv(tmp_path / "figure" / "figure5.csv")["images"]) == {2}


def test_a_batch_fills_the_blocks_of_small_maps():
    """The structured machine's exception, ResNet-18's 4x4 maps at 7:8, is one of single images:
    four of them, side by side, make blocks as deep as the reload of weights."""
    trace = load(bundled()["resnet18-structured-7-8"])
    one, four = (
        simulate(trace, PRESETS["structured"], images=range(4), batch=batch) for batch in (1, 4)
    )
    last = [index for index, layer in enumerate(trace.layers) if layer.h_out == 4]
    shallow = one.layers["stall_shallow"][last].sum()
    assert shallow > 0.5 * one.layers["cycles"][last].sum()
    assert four.layers["stall_shallow"][last].sum() < 0.02 * four.layers["cycles"][last].sum()
    assert four.cycles < 0.65 * 4 * one.cycles
    # The work is the same.
    for name in ("essential", "macs16", "macs4"):
        assert four.layers[name].sum() == one.layers[name].sum()


def test_the_sweep_has_every_batch(monkeypatch):
    chosen = [case for case in cases([]) if case.sweep in ("batch", "bandwidth")]
    assert {case.batch for case in chosen if case.sweep == "batch"} == {1, 4, 16}
    kept = [case for case in chosen if case.machine == "structured" and not case.overrides]
    monkeypatch.setattr("sinai.report.sweeps.cases", lambda jobs: kept)
    rows = sweeps([], workers=1, progress=False)["batch"]
    assert [row["batch"] for row in rows] == [1, 4, 16]
    assert np.all(np.diff([row["latency_over_dense"] for row in rows]) < 0)
    assert not any(row["real_trace"] for row in rows)
