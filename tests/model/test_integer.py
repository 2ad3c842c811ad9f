"""The integer network against floating point."""

import copy

import numpy as np
import pytest
import torch

from sinai.common.integer import run_layer
from sinai.common.scheme import Scheme
from sinai.model.calibrate import calibrate
from sinai.model.chain import chain
from sinai.model.integer import max_pool
from sinai.model.quantise import dequantise, quantise
from sinai.model.sinai import convert, set_scheme


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


@pytest.mark.parametrize("name", ["tiny_preact", "tiny_wrn", "tiny_resnet50"])
def test_other_networks_follow_floating_point_when_dense(name, normed, images):
    """Sums kept before their batch-norm, shortcuts of activated inputs, pooling by the host: logits
    of the integers, and of the floating-point network made of them, are those of the network that
    was converted."""
    original, x = normed(name), images.images[:8]
    net = convert(copy.deepcopy(original), batch_norm="fold")
    links = chain(net)
    scales = calibrate(net, links, torch.from_numpy(images.images).float() / 255)
    for link in links:
        link.module.x_step.fill_(scales[link.source].step)
    made = quantise(net, name, scales, 0)
    with torch.no_grad():
        wanted = original(torch.from_numpy(x).float() / 255).numpy()
        floating = dequantise(made, 0)(torch.from_numpy(x).float() / 255).numpy()
    room = 1e-3 * np.ptp(wanted)
    assert np.abs(made.run(x, Scheme.parse("dense")) - wanted).max() < room
    assert np.abs(floating - wanted).max() < room
    for spec, link in zip(made.layers, links, strict=True):
        assert (spec.y_scale is not None) == (link.norm is not None)
        assert np.any(spec.gain != 1) == (link.norm is not None), spec.layer.name


def test_only_pre_activation_networks_have_batch_norms_behind_sums(normed):
    normed_layers = {
        name: [k.name for k in chain(convert(normed(name), batch_norm="fold")) if k.norm]
        for name in ("tiny", "tiny_resnet50", "tiny_preact", "tiny_wrn")
    }
    assert normed_layers == {
        "tiny": [],
        "tiny_resnet50": [],
        "tiny_preact": ["stem", "blocks.0.conv2", "blocks.1.conv2"],
        # Nothing adds the stem's output, so the batch-norm behind it folds.
        "tiny_wrn": ["blocks.0.conv2", "blocks.1.conv2", "blocks.2.conv2"],
    }


@pytest.mark.parametrize("side", [7, 8])
def test_pooling_is_that_of_pytorch(side):
    values = np.random.default_rng(0).integers(-99, 99, (2, side, side, 3)).astype(np.int16)
    x = torch.from_numpy(values).float().permute(0, 3, 1, 2)
    wanted = torch.nn.MaxPool2d(3, 2, 1)(x).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(max_pool(values), wanted)


def _residual(spec, images):
    shape = (images, spec.layer.pixels, spec.layer.c_out)
    return np.zeros(shape, np.int16) if spec.residual else None
