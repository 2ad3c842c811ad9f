"""What `trace info` prints and what `trace verify` refuses."""

import dataclasses
import json

import numpy as np
import pytest

from sinai.common.errors import CheckError, InputError
from sinai.common.layer import Layer
from sinai.traces.inspection import info, table, verify
from sinai.traces.networks import layers
from sinai.traces.schema import make, save
from sinai.traces.synth import synthesise


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.npz"


def test_info_by_hand(manifest):
    """Two images of 5x3x3: channel 0 essential everywhere in the first, nothing in the second."""
    mask = np.zeros((2, 5, 3, 3), dtype=bool)
    mask[0, 0] = True
    record = info(make(manifest(), [mask]))
    (layer,) = record["layers"]
    assert layer["noise"] == pytest.approx(1 - 9 / 90)
    assert (layer["noise_min"], layer["noise_max"]) == pytest.approx((1 - 9 / 45, 1))
    assert layer["channel_cv"] == pytest.approx(2)  # rates 1/2, 0, 0, 0, 0: mean 0.1, sd 0.2
    assert layer["empty_positions"] == 0.5
    assert record["images"] == 2
    assert json.loads(json.dumps(record)) == record


def test_table_says_what_it_is():
    text = table(synthesise("tiny", "structured:7:8", 2))
    assert "synthetic trace of tiny, scheme structured:7:8" in text
    assert "2 image(s) of no data set" in text
    assert text.count("\n") == 3 + 6  # three lines of heading, one a layer
    assert "8->16 3x3/2 to 16x16" in text


@pytest.mark.parametrize("network", ["tiny", "resnet18", "wrn34_10"])
@pytest.mark.parametrize("scheme", ["dense", "unstructured:0.9", "structured:7:8"])
def test_synthetic_traces_verify(path, network, scheme):
    synthesise(network, scheme).save(path)
    report = verify(path)
    assert (report["surplus"], report["notes"]) == (0, [])
    assert report["layers"] == len(layers(network))
    json.dumps(report)


@pytest.mark.parametrize("network", ["resnet50", "vit_b16"])
def test_geometry_of_large_networks_verifies(path, network):
    synthesise(network, "dense").save(path)
    assert verify(path)["notes"] == []


def test_a_group_with_one_too_many(path, manifest):
    """Channels 0 to 4 are one partial group; 6:8 keeps two of them at each pixel."""
    mask = np.zeros((2, 5, 3, 3), dtype=bool)
    mask[:, :2] = True
    fields = {"scheme": "structured:6:8", "noise_target": 0.75}
    save(path, manifest(**fields), [mask])
    assert verify(path)["essential"] == 36
    mask[1, 4, 2, 0] = True
    save(path, manifest(**fields), [mask])
    with pytest.raises(
        CheckError,
        match=r"t\.npz: layer conv, image 1, row 2, column 0: channels 0 to 4 have 3 essential,"
        r" scheme structured:6:8 keeps 2",
    ):
        verify(path)


def test_a_group_smaller_than_n(path, manifest):
    """2:8 keeps six of eight channels, so all of a group of five."""
    save(path, manifest(scheme="structured:2:8", noise_target=0.25), [np.ones((2, 5, 3, 3), bool)])
    assert verify(path)["essential"] == 90


def test_too_few_of_top_k(path, manifest):
    """90 % of 45: K = 4.5 rounded up to 5."""
    mask = np.zeros((2, 45), dtype=bool)
    mask[:, :5] = True
    save(path, manifest(), [mask.reshape(2, 5, 3, 3)])
    assert verify(path)["surplus"] == 0
    mask[1, 4] = False
    save(path, manifest(), [mask.reshape(2, 5, 3, 3)])
    with pytest.raises(CheckError, match=r"image 1: 4 neurons are essential, .* keeps 5 of 45"):
        verify(path)


def test_ties_are_counted_in_real_traces_alone(path, manifest):
    mask = np.zeros((2, 45), dtype=bool)
    mask[:, :5] = mask[1, :7] = True
    save(path, manifest(synthetic=False), [mask.reshape(2, 5, 3, 3)])
    report = verify(path)
    assert report["surplus"] == 2
    assert report["surplus_most"] == pytest.approx(2 / 45)
    save(path, manifest(), [mask.reshape(2, 5, 3, 3)])
    with pytest.raises(CheckError, match="image 1: 7 neurons are essential"):
        verify(path)


def test_static_threshold_promises_no_count(path, manifest):
    """A threshold calibrated elsewhere may keep fewer or more."""
    mask = np.zeros((2, 5, 3, 3), dtype=bool)
    mask[0] = True
    save(path, manifest(synthetic=False, selection="static theta"), [mask])
    assert verify(path)["surplus"] == 40


def test_noise_must_agree(path, manifest, mask):
    fields = {"synthetic": False, "selection": "static theta"}
    trace = make(manifest(**fields), [mask])
    wrong = trace.manifest.model_copy(update={"noise_measured": 0.123})
    dataclasses.replace(trace, manifest=wrong).save(path)
    with pytest.raises(CheckError, match=r"noise_measured is 0\.123, but 0\.\d+ of the neurons"):
        verify(path)
    save(path, manifest(**fields, noise_target=0.5), [mask])
    with pytest.raises(
        CheckError, match=r"noise_target is 0\.5, but scheme unstructured:0\.9 asks"
    ):
        verify(path)


def test_damaged_file_is_bad_input(path):
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"not a \.npz file"):
        verify(path)


def conv(name, c_in, c_out, side, **fields):
    return Layer(
        name=name, c_in=c_in, c_out=c_out, kernel=1, stride=1, padding=0, h_in=side, w_in=side,
        k=1, **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (
            [conv("a", 3, 8, 4), conv("b", 8, 8, 4, residual=True, joined="s")],
            "layer b adds a residual, but no earlier layer writes its stream 's'",
        ),
        (
            [conv("a", 3, 8, 4, joined="s"), conv("b", 8, 8, 3, joined="s")],
            "layer b writes 8x3x3, but a of the same stream 's' writes 8x4x4",
        ),
        (
            [conv("a", 3, 8, 4), conv("b", 9, 8, 4)],
            "layer b reads 9x4x4, which no earlier layer writes",
        ),
        (
            [conv("a", 3, 8, 4), conv("b", 8, 8, 5)],
            "layer b reads 8x5x5, which no earlier layer writes",
        ),
    ],
)
def test_layers_that_contradict_each_other(path, chain, message):
    synthesise("resnet18", "dense", layers=chain).save(path)
    with pytest.raises(CheckError, match=message):
        verify(path)


def test_odd_inputs_of_other_networks_are_noted(path):
    """A network that is not built in may concatenate or pad on the host."""
    synthesise("dense_net", "dense", layers=[conv("a", 3, 8, 4), conv("b", 11, 8, 4)]).save(path)
    assert verify(path)["notes"] == ["layer b reads 11x4x4, which no earlier layer writes"]
