"""Statistics of masks against masks whose statistics are known."""

import json

import numpy as np
import pytest

from sinai.common.errors import InputError
from sinai.common.layer import Layer
from sinai.traces.fit import fit, main, measure
from sinai.traces.mask_statistics import Statistics
from sinai.traces.schema import Manifest, save


def real(path, mask, **fields):
    """Write a trace of one layer that claims to be real."""
    images, c_out, h, w = mask.shape
    layer = Layer(name="c", c_in=1, c_out=c_out, kernel=1, stride=1, padding=0, h_in=h, w_in=w, k=1)
    values = {
        "network": "net",
        "synthetic": False,
        "scheme": "unstructured:0.9",
        "selection": "top-k",
        "noise_target": 0.9,
        "seed": 0,
        "image_indices": tuple(range(images)),
        "one_net": True,
        "command": "test",
        "layers": [layer] * 3,
    }
    return save(path, Manifest(**(values | fields)), [mask] * 3)


def test_independent_neurons():
    """Nothing in common but by chance, even where counting 16 pixels alone would give a CV of
    sqrt(0.9 / 0.1 / 16) = 0.75."""
    mask = np.random.default_rng(0).random((8, 512, 4, 4)) < 0.1
    point = measure(mask, 0.9, 0)
    assert point.channel_cv < 0.15
    assert point.position_cv < 0.1
    assert abs(point.neighbour + 1 / 15) < 0.03  # the rate of 16 pixels is taken out of each
    assert point.dead == 0


def test_channels_by_formula():
    """Half of the channels at 0.1 and half at 0.3, in every image: CV = 0.1 / 0.2."""
    rate = np.where(np.arange(400) % 2, 0.1, 0.3)[None, :, None, None]
    mask = np.random.default_rng(0).random((6, 400, 16, 16)) < rate
    point = measure(mask, 0.8, 0)
    assert point.channel_cv == pytest.approx(0.5, rel=0.05)
    assert point.persistence == pytest.approx(1, abs=0.02)
    assert point.position_cv < 0.05


def test_channels_that_change_between_images():
    """The same rates dealt anew in every image: the same CV, no persistence."""
    rng = np.random.default_rng(0)
    rate = rng.permuted(np.tile(np.where(np.arange(400) % 2, 0.1, 0.3), (6, 1)), axis=1)
    mask = rng.random((6, 400, 16, 16)) < rate[:, :, None, None]
    point = measure(mask, 0.8, 0)
    assert point.channel_cv == pytest.approx(0.5, rel=0.05)
    assert point.persistence < 0.1


def test_positions_by_formula():
    """Left half at 0.1, right half at 0.3: CV = 0.5; of 15 pairs across a row 14 agree and of the
    pairs down a column all do, so neighbours correlate by 1 - 2 / 31, channel by channel by
    0.01 / (0.2 * 0.8) of that."""
    rate = np.where(np.arange(16) < 8, 0.1, 0.3)
    mask = np.random.default_rng(0).random((4, 400, 16, 16)) < rate
    point = measure(mask, 0.8, 0)
    assert point.position_cv == pytest.approx(0.5, rel=0.05)
    assert point.position_neighbour == pytest.approx(1 - 2 / 30, abs=0.03)
    assert point.neighbour == pytest.approx((1 - 2 / 30) * 0.01 / 0.16, abs=0.01)
    assert point.channel_cv < 0.05


def test_neighbours_within_channels():
    """Pairs of equal columns, independent otherwise: half of the pairs across a row correlate
    fully, those down a column not at all; no two channels have anything in common."""
    rng = np.random.default_rng(0)
    mask = np.repeat(rng.random((4, 400, 16, 8)) < 0.2, 2, axis=3)
    point = measure(mask, 0.8, 0)
    assert point.neighbour == pytest.approx(8 / 30, abs=0.02)
    assert point.position_cv < 0.05


def test_few_channels_with_texture():
    """Columns in equal pairs and halves of 0.1 and 0.3: the texture of eight channels must not pass
    for a position that they share."""
    rate = np.where(np.arange(8) < 4, 0.1, 0.3)
    mask = np.repeat(np.random.default_rng(0).random((200, 8, 16, 8)) < rate, 2, axis=3)
    point = measure(mask, 0.8, 0)
    assert point.position_cv == pytest.approx(0.5, rel=0.05)
    assert point.position_neighbour == pytest.approx(1 - 2 / 30, abs=0.03)


def test_dead_channels():
    mask = np.random.default_rng(0).random((2, 64, 8, 8)) < 0.5
    mask[:, :16] = False
    assert measure(mask, 0.5, 0).dead == 0.25


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 1, 4), (1, 8, 1, 1), (1, 2, 4, 1)])
def test_degenerate_shapes(shape):
    """One image, one channel, one pixel: no statistic is undefined."""
    mask = np.zeros(shape, dtype=bool)
    mask.ravel()[::2] = True
    assert 0 <= measure(mask, 0.5, 0).persistence <= 1


def test_fit_averages_layers_of_a_depth(tmp_path):
    """Three equal layers at depths 0, 1/2 and 1 fall into bins 0, 2 and 3 of four."""
    mask = np.random.default_rng(0).random((3, 64, 8, 8)) < 0.1
    trace = real(tmp_path / "r.npz", mask)
    statistics = fit([trace, trace], "a command")
    assert [(p.ratio, p.depth) for p in statistics.points] == [(0.9, 0), (0.9, 0.5), (0.9, 1)]
    one = measure(mask, 0.9, 0)
    assert statistics.points[0].channel_cv == pytest.approx(one.channel_cv, abs=1e-4)
    assert statistics.command == "a command"
    assert statistics.source.startswith("measured on net-unstructured-0.9")


def test_command_line(tmp_path, capsys):
    mask = np.random.default_rng(0).random((3, 64, 8, 8)) < 0.1
    real(tmp_path / "r.npz", mask)
    out = tmp_path / "s.json"
    assert main([str(tmp_path / "r.npz"), "-o", str(out)]) == 0
    assert Statistics.from_file(out).points[0].ratio == 0.9
    assert json.loads(out.read_text())["command"].startswith("python -m sinai.traces.fit /")

    real(tmp_path / "s.npz", mask, synthetic=True)
    assert main([str(tmp_path / "s.npz"), "-o", str(out)]) == 2
    assert "synthetic is true; statistics are fitted to traces of real" in capsys.readouterr().err
    assert main([str(tmp_path / "none.npz"), "-o", str(out)]) == 2
    assert "none.npz: cannot be read" in capsys.readouterr().err
    assert main([str(tmp_path / "r.npz"), "-o", str(tmp_path / "no" / "s.json")]) == 2
    assert "cannot be written (No such file" in capsys.readouterr().err


def test_nothing_to_fit(tmp_path):
    mask = np.zeros((1, 8, 1, 1), dtype=bool)
    mask[:, 0] = True
    structured = real(tmp_path / "r.npz", mask, scheme="structured:7:8")
    with pytest.raises(InputError, match="no trace is left; give traces of unstructured schemes"):
        fit([structured])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"text: invalid JSON"),
        ("{}", r"source: field required"),
        ('{"source": "", "command": "", "points": []}', r"points: .*at least 1 item"),
    ],
)
def test_bad_statistics_file(tmp_path, text, message):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"s\.json: {message}.*; give a JSON file"):
        Statistics.from_file(path)
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        Statistics.from_file(tmp_path / "none.json")
