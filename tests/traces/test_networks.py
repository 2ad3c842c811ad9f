"""Geometry against published counts, and the projection against its definition."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinai.common.errors import InputError
from sinai.common.projection import k_jll, projected_depth, ternary
from sinai.traces.networks import NETWORKS, layers


@pytest.mark.parametrize(
    ("network", "count", "giga_macs"),
    [
        ("resnet18", 20, 0.5554),  # CIFAR form of He et al. 2016; counted by ptflops and others
        ("wrn34_10", 34, 6.659),  # 1 + 30 convolutions and 3 shortcuts
        ("resnet50", 53, 4.087),  # torchvision's 4.089 less 0.002 of the classifier
        # 12 * 197 * (3 + 1 + 4 + 4) * 768**2 of the blocks, 196 * 768**2 of the embedding
        ("vit_b16", 49, (12 * 197 * 12 + 196) * 768**2 / 1e9),
    ],
)
def test_published_counts(network, count, giga_macs):
    """Multiply-accumulates of one image, convolutions only, to four digits."""
    geometry = layers(network)
    assert len(geometry) == count
    assert sum(layer.macs for layer in geometry) / 1e9 == pytest.approx(giga_macs, rel=1e-4)


def test_resnet18_by_hand():
    """Order, names, shapes and streams of the stage that halves the map for the first time."""
    geometry = layers("resnet18")
    assert [layer.name for layer in geometry[4:10]] == [
        "blocks.1.conv2",
        "blocks.2.conv1",
        "blocks.2.shortcut.0",
        "blocks.2.conv2",
        "blocks.3.conv1",
        "blocks.3.conv2",
    ]
    conv1, shortcut, conv2 = geometry[5:8]
    assert (conv1.c_in, conv1.c_out, conv1.h_in, conv1.h_out, conv1.stride) == (64, 128, 32, 16, 2)
    assert (shortcut.kernel, shortcut.h_in, shortcut.h_out, shortcut.padding) == (1, 32, 16, 0)
    assert (conv2.c_in, conv2.c_out, conv2.h_out, conv2.k) == (128, 128, 16, 232)
    streams = defaultdict(list)
    for layer in geometry:
        streams[layer.joined].append(layer.name)
    assert streams["stage1"] == ["stem", "blocks.0.conv2", "blocks.1.conv2"]
    assert streams["stage2"] == ["blocks.2.shortcut.0", "blocks.2.conv2", "blocks.3.conv2"]
    assert {layer.name for layer in geometry if layer.residual} == {
        f"blocks.{block}.conv2" for block in range(8)
    }
    assert [layer.name for layer in geometry if not layer.unsigned_input] == ["stem"]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("projection", ["patch", "tap"])
def test_depth_and_nonzeros(network, projection):
    """k follows its rule, and a third of P is nonzero, within five standard deviations."""
    for layer in layers(network, projection):
        assert layer.projection == projection
        assert layer.k == projected_depth(layer.d, layer.c_out, layer.kernel, projection)
        entries = layer.k * layer.d if projection == "patch" else layer.k * layer.c_in // layer.taps
        assert abs(layer.projection_nonzeros - entries / 3) < 5 * (entries * 2 / 9) ** 0.5


def test_seed_reaches_the_projection():
    one, two = (layers("tiny", seed=seed)[1].projection_nonzeros for seed in (0, 1))
    assert one != two


@pytest.mark.parametrize(("n", "k"), [(64, 199), (128, 232), (256, 266), (512, 299), (1, 1)])
def test_johnson_lindenstrauss(n, k):
    """johnson_lindenstrauss_min_dim(n, eps=0.5) of scikit-learn; a single row still needs one."""
    assert k_jll(n) == k


@pytest.mark.parametrize(
    ("d", "n", "kernel", "projection", "k"),
    [
        (27, 64, 3, "patch", 27),  # d is the smaller
        (576, 64, 3, "patch", 199),
        (576, 64, 3, "tap", 9 * 4 * 6),  # 199 / 36 = 5.5, so k0 = 24
        (27, 64, 3, "tap", 9 * 4),  # 27 / 36 = 0.75, so k0 = 4
        (64, 128, 1, "tap", 64),  # 64 / 4 = 16
    ],
)
def test_projected_depth_by_hand(d, n, kernel, projection, k):
    assert projected_depth(d, n, kernel, projection) == k


def test_unknown_projection_and_network():
    with pytest.raises(ValueError, match="Projection must be patch or tap, not 'full'"):
        projected_depth(9, 9, 3, "full")
    with pytest.raises(InputError, match="projection must be patch or tap, not 'full'"):
        layers("tiny", "full")
    with pytest.raises(InputError, match=r"network must be one of tiny, resnet18, .*not 'alexnet'"):
        layers("alexnet")


def test_ternary_is_one_sixth_each():
    """A million entries: the shares of -1 and 1 within five standard deviations of 1/6."""
    p = ternary(1000, 1000, (0, 0))
    assert p.dtype == np.int8
    assert set(np.unique(p)) == {-1, 0, 1}
    for value in (-1, 1):
        assert abs(np.mean(p == value) - 1 / 6) < 5 * (5 / 36 / 1e6) ** 0.5


@given(seed=st.integers(0, 2**32), index=st.integers(0, 99))
def test_ternary_depends_on_its_key_alone(seed, index):
    p = ternary(7, 9, (seed, index))
    assert p.shape == (7, 9)
    np.testing.assert_array_equal(p, ternary(7, 9, (seed, index)))
    assert (p != ternary(7, 9, (seed, index + 1))).any()
    assert (p != ternary(7, 9, (seed + 1, index))).any()


def test_ternary_against_the_bits():
    """The first entries from the generator's raw words, sixteen bits at a time, low ones first."""
    word = int(np.random.PCG64(np.random.SeedSequence((3, 4))).random_raw())
    sixteen = [word >> 16 * i & 0xFFFF for i in range(4)]
    expected = [(bits < 10923) - (bits >= 65536 - 10923) for bits in sixteen]
    assert ternary(1, 4, (3, 4)).tolist() == [expected]
