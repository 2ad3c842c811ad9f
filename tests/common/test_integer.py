"""The integer layer against plain Python integers."""

import numpy as np
import pytest

from sinai.common.integer import IntegerLayer, im2col, run_layer
from sinai.common.layer import Layer
from sinai.common.scheme import Scheme


def random_spec(rng, projection, kernel, stride, c_in=3, c_out=10, side=5):
    rows = 4 if projection == "tap" else 7
    k = rows * kernel**2 if projection == "tap" else rows
    layer = Layer(
        name="one",
        c_in=c_in,
        c_out=c_out,
        kernel=kernel,
        stride=stride,
        padding=kernel // 2,
        h_in=side,
        w_in=side + 1,
        k=k,
        projection=projection,
        residual=True,
    )
    columns = c_in if projection == "tap" else layer.d
    return IntegerLayer(
        layer=layer,
        source="input",
        residual="input",
        weight=rng.integers(-32768, 32768, (c_out, layer.d)).astype(np.int16),
        bias=rng.integers(-(2**31), 2**31, c_out).astype(np.int32),
        multiplier=rng.integers(1, 32768, c_out).astype(np.int16),
        shift=33,
        matrix=rng.integers(-1, 2, (rows, columns)).astype(np.int8),
        matrix_shift=2,
        noise_weight=rng.integers(-7, 8, (c_out, k)).astype(np.int8),
        noise_bias=rng.integers(-50, 50, c_out).astype(np.int32),
        noise_multiplier=rng.integers(1, 32768, c_out).astype(np.int16),
        noise_shift=8,
        gain=rng.integers(-300, 300, c_out).astype(np.int16),
        offset=rng.integers(-300, 300, c_out).astype(np.int16),
        gain_shift=8,
        relu=True,
        quantise_shift=9,
        unsigned=True,
        scale=1.0,
    )


def limit(v, low, high):
    return max(low, min(high, v))


def shifted(v, r):
    return v if r == 0 else (v + (1 << (r - 1))) >> r


def dot(a, b):
    return sum(int(u) * int(v) for u, v in zip(a, b, strict=True))


def window(x, layer, row, column):
    """Inputs under the kernel, tap by tap, as lists of channels; zeros outside."""
    taps = []
    for i in range(layer.kernel):
        for j in range(layer.kernel):
            top, left = row * layer.stride + i - layer.padding, column * layer.stride + j
            left -= layer.padding
            inside = 0 <= top < layer.h_in and 0 <= left < layer.w_in
            taps.append([int(v) for v in x[top, left]] if inside else [0] * layer.c_in)
    return taps


def by_hand(spec, x, xq, residual):
    """z, z~ and functions of v to (s, y, y^Q), one pixel and channel at a time."""
    layer, pixels = spec.layer, []
    for row in range(layer.h_out):
        for column in range(layer.w_out):
            wide = [v for tap in window(x, layer, row, column) for v in tap]
            narrow = window(xq, layer, row, column)
            if layer.projection == "patch":
                narrow = [[v for tap in narrow for v in tap]]
            p = [
                limit(shifted(dot(line, tap), spec.matrix_shift), -8, 7)
                for tap in narrow
                for line in spec.matrix
            ]
            z, noise = [], []
            for c in range(layer.c_out):
                total = dot(wide, spec.weight[c]) + int(spec.bias[c])
                z.append(limit(shifted(total * int(spec.multiplier[c]), spec.shift), -32768, 32767))
                total = dot(p, spec.noise_weight[c]) + int(spec.noise_bias[c])
                v = shifted(total * int(spec.noise_multiplier[c]), spec.noise_shift)
                noise.append(limit(v, -32768, 32767))
            pixels.append((z, noise))
    return [z for z, _ in pixels], [n for _, n in pixels]


def written(spec, v, residual, c):
    s = limit(v + int(residual), -32768, 32767)
    y = shifted(s * int(spec.gain[c]), spec.gain_shift) + int(spec.offset[c])
    y = max(0, limit(y, -32768, 32767))
    return s, y, limit(shifted(y, spec.quantise_shift), 0, 15)


@pytest.mark.parametrize(
    "scheme", ["dense", "unstructured:0.7", "structured:5:8", "structured:8:8"]
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("projection", ["patch", "tap"])
def test_layer_against_plain_integers(projection, kernel, stride, scheme):
    rng = np.random.default_rng([kernel, stride, len(scheme)])
    spec, scheme = random_spec(rng, projection, kernel, stride), Scheme.parse(scheme)
    layer = spec.layer
    x = rng.integers(-32768, 32768, (2, layer.h_in, layer.w_in, 3)).astype(np.int16)
    xq = rng.integers(0, 16, x.shape).astype(np.int8)
    residual = rng.integers(-32768, 32768, (2, layer.pixels, layer.c_out)).astype(np.int16)
    done = run_layer(spec, x, xq, residual, scheme)
    for image in range(2):
        z, noise = by_hand(spec, x[image], xq[image], residual[image])
        count = scheme.essential_count(layer.neurons)
        theta = sorted((v for line in noise for v in line), reverse=True)[count - 1]
        if scheme.kind == "unstructured":
            assert done.theta[image] == theta
        for pixel in range(layer.pixels):
            for c in range(layer.c_out):
                group = range(c // 8 * 8, min(c // 8 * 8 + 8, layer.c_out))
                mine = noise[pixel][c]
                rank = sum(
                    noise[pixel][j] > mine or (noise[pixel][j] == mine and j < c) for j in group
                )
                essential = {
                    "dense": True,
                    "unstructured": mine >= theta,
                    "structured": rank < scheme.essential_of_group,
                }[scheme.kind]
                assert done.mask[image, pixel, c] == essential
                v = z[pixel][c] if essential else mine
                expected = written(spec, v, residual[image, pixel, c], c)
                found = tuple(int(part[image, pixel, c]) for part in (done.s, done.y, done.yq))
                assert found == expected


def test_im2col_by_hand():
    """A 2x2 image of one channel, 3x3 window: the first row sees zeros above and left."""
    rows = im2col(np.array([[[[1], [2]], [[3], [4]]]]), kernel=3, stride=1, padding=1)
    assert rows.tolist()[0] == [0, 0, 0, 0, 1, 2, 0, 3, 4]
    assert rows.tolist()[3] == [1, 2, 0, 3, 4, 0, 0, 0, 0]


def test_a_given_mask_replaces_selection():
    """Essential neurons take z, the others z~, as two other schemes give them."""
    rng = np.random.default_rng(3)
    spec = random_spec(rng, "patch", 3, 1)
    layer = spec.layer
    x = rng.integers(-32768, 32768, (1, layer.h_in, layer.w_in, 3)).astype(np.int16)
    xq = rng.integers(0, 16, x.shape).astype(np.int8)
    mask = rng.random((1, layer.pixels, layer.c_out)) < 0.5
    dense, noisy = (
        run_layer(spec, x, xq, None, Scheme.parse(t)) for t in ("dense", "structured:8:8")
    )
    for scheme in ("unstructured:0.1", "structured:2:8"):
        done = run_layer(spec, x, xq, None, Scheme.parse(scheme), mask=mask)
        assert np.array_equal(done.y, np.where(mask, dense.y, noisy.y))
        assert np.array_equal(done.mask, mask)
        assert done.theta == ()
