"""`sinai.sim.simulate` on traces made in memory."""

import numpy as np
import pytest

from sinai.common.errors import InputError
from sinai.common.layer import Layer
from sinai.common.machine import PRESETS
from sinai.sim import simulate
from sinai.sim.counts import EVENTS
from sinai.traces.schema import Manifest, make

U, S = PRESETS["unstructured-small"], PRESETS["structured-small"]


@pytest.fixture
def trace():
    layers = [
        Layer(name="a", c_in=3, c_out=16, kernel=3, stride=1, padding=1, h_in=8, w_in=8, k=27,
              projection_nonzeros=9, joined="s"),
        Layer(name="b", c_in=16, c_out=16, kernel=3, stride=1, padding=1, h_in=8, w_in=8, k=64,
              projection_nonzeros=33, residual=True, joined="s"),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    # Every fourth channel is dense: without placement all of these fall on lane 0.
    rates = np.where(np.arange(16) % 4 == 0, 0.9, 0.1)
    masks = [rng.random((3, 16, 8, 8)) < rates[:, None, None] for _ in layers]
    manifest = Manifest(
        network="pair",
        synthetic=True,
        one_net=True,
        scheme="unstructured:0.7",
        selection="random",
        noise_target=0.7,
        seed=0,
        image_indices=(0, 1, 2),
        layers=layers,
        command="test",
        versions={},
    )
    return make(manifest, masks, [rates.astype(np.float32)] * 2)


def test_one_row_an_image_and_layer(trace):
    result = simulate(trace, U, images=[2, 0])
    assert list(zip(result.layers["image"], result.layers["layer"], strict=True)) == [
        (0, "a"), (0, "b"), (2, "a"), (2, "b"),
    ]  # fmt: skip
    assert list(result.counts.columns) == list(EVENTS)
    assert (
        result.layers["essential"] == [trace.mask(n)[i].sum() for i in (0, 2) for n in (0, 1)]
    ).all()
    assert result.cycles == result.layers["cycles"].sum() / 2
    # Additions of the projection: nonzeros of P times output pixels.
    assert result.counts["rpu.add"].tolist() == [9 * 64, 33 * 64] * 2


def test_placement_balances_lanes(trace):
    """Placed, each lane gets one of the four dense channels."""
    placed, plain = simulate(trace, U), simulate(trace, U, placement=False)
    assert placed.layers["essential"].sum() == plain.layers["essential"].sum()
    assert placed.layers["busy_cycles"].sum() < 0.8 * plain.layers["busy_cycles"].sum()
    assert placed.cycles < plain.cycles


def test_ideal_is_a_bound(trace):
    """ceil(B E / V) plus ceil(B4 n / V), below what the machine reaches."""
    ideal, real = simulate(trace, U, ideal=True), simulate(trace, U)
    assert (ideal.layers["cycles"] < real.layers["cycles"]).all()
    first = ideal.layers.iloc[0]
    assert first["cycles"] == -(-first["essential"] * 7 // 4) + 16 * 64 // 4  # B = ceil(27 / 4) = 7
    assert (ideal.layers["cycles"] == ideal.layers["busy_cycles"]).all()


def test_dense_ignores_the_masks(trace):
    for machine in (U, S):
        dense = simulate(trace, machine, dense=True)
        assert dense.noise == 0
        assert (dense.layers["macs4"] == 0).all()
        assert dense.counts["p.read"].sum() == 0


def test_structured_machine_runs_unstructured_masks(trace):
    assert simulate(trace, S).noise == pytest.approx(simulate(trace, U).noise)


def test_bad_requests(trace):
    with pytest.raises(InputError, match="image must be between 0 and 2, not 3"):
        simulate(trace, U, images=[3])
    with pytest.raises(InputError, match="ideal bound is defined for unstructured machines only"):
        simulate(trace, S, ideal=True)
