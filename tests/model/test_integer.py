"""The integer network against floating point."""

import numpy as np
import pytest
import torch

from sinai.common.integer import run_layer
from sinai.common.scheme import Scheme
from sinai.model.sinai import set_scheme


def test_a_fixed_theta_replaces_top_k(checkpoint, images):
    net = checkpoint.integer()
    masks = []
    net.run(
        images.images[:3],
        Scheme.parse("unstructured:0.5"),
        observe=lambda index, done: masks.append((done.theta, done.mask, done.noise)),
        thetas=[100] * 6,
    )
    for theta, mask, noise in masks:
        assert theta == (100, 100, 100)
        assert np.array_equal(mask, noise >= 100)


@pytest.mark.parametrize("projection", ["patch", "tap"])
def test_integers_follow_floating_point_when_dense(checkpoint, images, projection):
    """16 bit leave the logits within a thousandth of their range."""
    x = images.images[:16]
    with torch.no_grad():
        floating = checkpoint.floating(projection)(torch.from_numpy(x).float() / 255).numpy()
    integer = checkpoint.integer(projection).run(x, Scheme.parse("dense"))
    assert np.abs(floating - integer).max() < 1e-3 * np.ptp(floating)


@pytest.mark.parametrize("projection", ["patch", "tap"])
def test_approximate_layers_follow_floating_point(checkpoint, images, projection):
    """Given the same input, z~ of both differ by the rounding of a few borderline values only."""
    floating = set_scheme(checkpoint.floating(projection), "unstructured:1")
    net = checkpoint.integer(projection)
    runs = []
    net.run(images.images[:4], Scheme.parse("dense"), observe=lambda i, run: runs.append(run))
    scales = {spec.layer.name: spec.scale for spec in net.layers} | {"input": net.input_scale}
    for spec, run in zip(net.layers, runs, strict=True):
        x = torch.from_numpy(run.x.astype(np.float64) * scales[spec.source]).float()
        module = floating.get_submodule(spec.layer.name)
        with torch.no_grad():
            expected = module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        found = run_layer(spec, run.x, run.xq, _residual(spec, 4), Scheme.parse("unstructured:1"))
        noise = found.noise.reshape(expected.shape) * spec.scale
        close = np.abs(noise - expected) <= 2 * spec.scale
        assert close.mean() > 0.97, spec.layer.name


def _residual(spec, images):
    shape = (images, spec.layer.pixels, spec.layer.c_out)
    return np.zeros(shape, np.int16) if spec.residual else None
