"""The study of what the accelerator's choices cost: variants, differences, tables, resumption."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from sinai.common.scheme import Scheme
from sinai.model import checkpoint as store
from sinai.model import study as measured
from sinai.model.closed_form import ClosedForm
from sinai.model.sinai import layers_of, set_scheme, unconvert
from sinai.model.study import BASE, VARIANTS, measure_thresholds
from sinai.model.switches import Switches
from sinai.report import study

SCHEMES = ("unstructured:0.9", "structured:7:8")


@pytest.fixture(scope="module")
def tiny():
    return store.load("tiny")


@pytest.fixture(scope="module")
def pixels():
    """Images of the bundled network's data set: 8 test images and 16 training images."""
    with np.load(store.bundled()["tiny"] / "images.npz") as archive:
        return archive["test_images"], archive["test_labels"], archive["train_images"]


def fitted(checkpoint, images, **given):
    run = ClosedForm(unconvert(checkpoint.floating()), checkpoint.manifest.seed, **given)
    run.calibrate(torch.from_numpy(images))
    run.collect(torch.from_numpy(images), lambda done, of: None)
    run.refit(torch.from_numpy(images), lambda done, of: None)
    return run


@pytest.fixture(scope="module")
def runs(tiny, pixels):
    """A closed-form fit of each variant of interest on 12 images."""
    images = pixels[2][:12]
    forms = {
        name: Switches(**VARIANTS[name].changes)
        for name in (BASE, "no-requantise", "k-full", "no-projection")
    }
    return fitted(tiny, images, forms=forms), fitted(tiny, images, free_steps=True)


def test_unconverted_network_is_the_dense_one(tiny, pixels):
    x = torch.from_numpy(pixels[0]).float() / 255
    net = unconvert(tiny.floating())
    assert not [*layers_of(net)]
    with torch.no_grad():
        assert torch.equal(net(x), tiny.floating()(x))


def test_the_base_is_the_fit_of_the_checkpoints(tiny, pixels, runs):
    plain = fitted(tiny, pixels[2][:12])
    pairs = zip(layers_of(plain.forms["patch"]), layers_of(runs[0].forms[BASE]), strict=True)
    assert all(torch.equal(a.noise_weight, b.noise_weight) for a, b in pairs)


def test_variants_do_what_they_say(runs):
    """Less of z is unexplained without the rounding of p, with free steps, without projection."""
    errors = {name: np.mean([*each.values()]) for name, each in runs[0].errors.items()}
    free = np.mean([*runs[1].errors["patch"].values()])
    assert errors["no-requantise"] < errors[BASE]
    assert free < errors[BASE]
    assert errors["no-projection"] < errors["k-full"]
    for layer in layers_of(runs[0].forms["no-requantise"]):
        assert layer.p_shift == 0
    for layer in layers_of(runs[1].forms["patch"]):
        p, step = layer.project(torch.rand(1, layer.c_in, 8, 8))
        assert p.min() >= -8
        assert p.max() <= 7
        assert float(step) == pytest.approx(layer.p_step)
    shifts = [float(layer.p_shift) for layer in layers_of(runs[1].forms["patch"])]
    assert any(shift != int(shift) for shift in shifts)


def test_thresholds_are_counted_by_image_and_layer(tiny, pixels):
    images, labels, train = pixels
    found = measure_thresholds(tiny, "unstructured:0.8", train[:16], images[:8], labels[:8])
    net, masks = tiny.integer(), []
    run = dict(thetas=found["thetas"], observe=lambda i, done: masks.append(done.mask))
    logits = net.run(images[:8], Scheme.parse("unstructured:0.8"), **run)
    assert found["right"]["static"] == (logits.argmax(1) == labels[:8]).astype(int).tolist()
    essential = sum(mask.sum((1, 2)) for mask in masks)
    neurons = sum(mask[0].size for mask in masks)
    np.testing.assert_allclose(found["noise"]["static"], 1 - essential / neurons, atol=1e-6)
    np.testing.assert_allclose(found["noise"]["sample"], 0.8, atol=0.01)
    assert [*found["layers"].values()] == pytest.approx([1 - m.mean() for m in masks], abs=1e-6)


def test_a_difference_is_taken_image_by_image():
    """Of eight images two are lost and one is won: -1/8, and by hand its standard error."""
    base, right = [1, 1, 1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 1, 0, 1, 1]
    difference, error = study.paired(right, base)
    assert difference == -1 / 8
    assert error == pytest.approx(math.sqrt((3 - 8 / 64) / 7 / 8))


@pytest.fixture
def quick(tiny, pixels, monkeypatch, tmp_path):
    """The command on few images, with how often each part was measured."""
    calls = []

    def counted(name):
        before = getattr(measured, name)

        def run(*given, **rest):
            calls.append(given[1])
            return before(*given, **rest)

        monkeypatch.setattr(measured, name, run)

    counted("measure_variant")
    counted("measure_thresholds")
    data = f"npz:{store.bundled()['tiny'] / 'images.npz'}"
    command = ["--data", data, "--checkpoint", "tiny", "--images", "6", "--fit-images", "12"]
    command += ["--variant", BASE, "--variant", "tap", "-o", str(tmp_path / "study")]
    return command, calls, tmp_path / "study"


def test_command_writes_tables_and_goes_on_where_it_was(quick, tiny, pixels, capsys):
    command, calls, out = quick
    assert study.main(command) == 0
    assert calls == [BASE, "tap", "unstructured:0.9"]
    first = (out / "study.json").read_bytes()
    assert study.main([*command, "--force"]) == 0
    assert calls == [BASE, "tap", "unstructured:0.9"], "nothing is measured twice"
    assert (out / "study.json").read_bytes() == first
    record = json.loads(first)["checkpoints"]["tiny"]
    assert record["about"]["model_digest"] == tiny.digest
    cell = record["variants"]["tap"]
    run = fitted(
        tiny, pixels[2][np.arange(12) * 16 // 12], forms={"tap": Switches(projection="tap")}
    )
    set_scheme(run.forms["tap"], "structured:7:8")
    chosen = np.arange(6) * 8 // 6
    with torch.no_grad():
        said = run.forms["tap"](torch.from_numpy(pixels[0][chosen]).float() / 255).argmax(1)
    assert (
        cell["right"]["structured:7:8"] == (said.numpy() == pixels[1][chosen]).astype(int).tolist()
    )
    with (out / "study.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == study.COLUMNS
    assert [(row["variant"], row["scheme"]) for row in rows] == [
        (variant, scheme) for variant in (BASE, "tap") for scheme in SCHEMES
    ]
    assert rows[0]["difference"] == ""
    accuracies = [float(row["accuracy"]) for row in rows]
    assert float(rows[2]["difference"]) == pytest.approx(accuracies[2] - accuracies[0])
    text = (out / "study.md").read_text()
    assert f"{100 * accuracies[0]:.1f} ± " in text
    assert "One theta a layer, from 16 training images" in text
    assert study.main([*command, "--force", "--images", "8"]) == 0
    assert len(calls) == 6, "other images are another measurement"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--variant", "none"], "--variant must be one of accelerator"),
        (["--scheme", "loud"], "scheme must be"),
        (["--checkpoint", "none"], "none/checkpoint.json"),
        (["--checkpoint", "tiny"], "--checkpoint must be of different names, not tiny, tiny"),
        (["--data", "npz:none"], "none: cannot be read"),
    ],
)
def test_command_refuses(change, words, tmp_path, capsys):
    data = f"npz:{store.bundled()['tiny'] / 'images.npz'}"
    command = ["--data", data, "--checkpoint", "tiny", "-o", str(tmp_path / "out"), *change]
    assert study.main(command) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_full_depth_is_measured_unasked_where_it_is_small(tiny):
    assert study._affordable(tiny) == tuple(VARIANTS)
    large = study._affordable(store.load("resnet18-cifar10jpeg"))
    assert {*VARIANTS} - {*large} == {"k-full", "no-projection"}
