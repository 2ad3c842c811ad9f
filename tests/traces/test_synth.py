"""Synthetic masks: exact counts, the statistics asked for, and the same bytes every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinai.common.arithmetic import select_rank
from sinai.common.errors import InputError
from sinai.common.layer import Layer
from sinai.common.scheme import Scheme
from sinai.traces.fit import measure
from sinai.traces.mask_statistics import Point, Statistics, bundled_statistics
from sinai.traces.schema import load
from sinai.traces.synth import largest_of_groups, synthesise, top_k

SCHEMES = [
    "dense",
    *(f"unstructured:{ratio}" for ratio in (0, 0.1, 0.5, 0.9, 0.99, 1)),
    *(f"structured:{noisy}:8" for noisy in range(9)),
]


def small(c_out=13, side=5):
    return Layer(
        name="conv",
        c_in=3,
        c_out=c_out,
        kernel=3,
        stride=1,
        padding=1,
        h_in=side,
        w_in=side,
        k=9,
    )


@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=40), count=st.integers(-1, 41))
def test_top_k_is_exact(values, count):
    """Exactly K however many are equal, none of them below one that was left out."""
    score = np.array(values, np.float32)
    mask = top_k(score, count)
    assert mask.sum() == min(max(count, 0), len(values))
    if mask.any() and not mask.all():
        assert score[mask].min() >= score[~mask].max()


@given(
    seed=st.integers(0, 2**32),
    channels=st.integers(1, 20),
    count=st.integers(0, 8),
    levels=st.sampled_from([2, 1000]),
)
def test_groups_agree_with_the_rank_of_the_machine(seed, channels, count, levels):
    """N of 8 with partial groups and ties, as `common.arithmetic` selects."""
    z = np.random.default_rng(seed).integers(0, levels, (3, 4, channels))
    np.testing.assert_array_equal(
        largest_of_groups(z.astype(np.float32), count, 8), select_rank(z, count)
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_counts_are_exact(scheme):
    """K of a layer, or min(N, c) of each group of 8 and of the last 5 channels, in each image."""
    trace = synthesise("net", scheme, images=2, layers=[small(), small(16, 1)])
    parsed = Scheme.parse(scheme)
    for index, layer in enumerate(trace.layers):
        mask = trace.mask(index)
        if parsed.structured:
            for start in range(0, layer.c_out, 8):
                size = min(8, layer.c_out - start)
                found = mask[:, start : start + size].sum(1)
                assert (found == min(8 - parsed.noisy_of_group, size)).all()
        else:
            expected = round(float(1 - parsed.ratio) * layer.neurons + 1e-9)
            assert mask.sum((1, 2, 3)).tolist() == [expected] * 2


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        synthesise("tiny", "unstructured:0.9", 2, seed).save(tmp_path / f"{name}.npz")
    a, b, c = ((tmp_path / f"{name}.npz").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_first_image_does_not_depend_on_the_others():
    one, three = (synthesise("tiny", "structured:6:8", images) for images in (1, 3))
    for index in range(len(one.layers)):
        np.testing.assert_array_equal(one.mask(index)[0], three.mask(index)[0])
        assert (three.mask(index)[1] != three.mask(index)[2]).any()


def test_labelled_synthetic(tmp_path):
    synthesise("tiny", "structured:7:8").save(tmp_path / "t.npz")
    trace = load(tmp_path / "t.npz")
    assert trace.synthetic
    assert "synthetic" in trace.manifest.selection


def test_both_schemes_select_from_one_score():
    """At 90 % and 7:8 far more neurons are chosen by both than the 1/8 that chance would give."""
    unstructured, structured = (
        synthesise("tiny", scheme, statistics=flat(Scheme.parse(scheme), channel_cv=1.0)).mask(1)
        for scheme in ("unstructured:0.875", "structured:7:8")
    )
    assert (unstructured & structured).sum() / unstructured.sum() > 0.4


def flat(scheme, **values):
    """Statistics of independent neurons but for `values`."""
    base = {
        "channel_cv": 0.0,
        "persistence": 0.0,
        "dead": 0.0,
        "position_cv": 0.0,
        "position_neighbour": 0.0,
        "neighbour": 0.0,
    }
    point = Point(ratio=float(scheme.ratio), depth=0.5, **(base | values))
    return Statistics(source="test", command="", points=(point,))


@pytest.mark.parametrize("ratio", [0.5, 0.9])
@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"channel_cv": 0.6, "persistence": 0.8},
        {"channel_cv": 0.6, "persistence": 0.0},
        {"channel_cv": 0.6, "persistence": 0.4},
        {"position_cv": 0.5, "position_neighbour": 0.6, "neighbour": 0.1},
        {"neighbour": 0.3},
        {
            "channel_cv": 0.5,
            "persistence": 0.7,
            "position_cv": 0.4,
            "position_neighbour": 0.5,
            "neighbour": 0.25,
        },
    ],
    ids=["independent", "channels", "fickle channels", "in between", "positions", "texture", "all"],
)
def test_statistics_come_out_as_asked(ratio, side, values):
    """What is measured on synthetic masks is what they were drawn from, within sampling noise and
    the approximations of the generator."""
    scheme = Scheme.parse(f"unstructured:{ratio}")
    statistics = flat(scheme, **values)
    trace = synthesise("net", scheme, images=12, statistics=statistics, layers=[small(256, side)])
    asked, found = statistics.points[0], measure(trace.mask(0), ratio, 0.5)
    if asked.channel_cv or side == 32:  # a smooth texture alone makes channels of few pixels differ
        assert found.channel_cv == pytest.approx(asked.channel_cv, rel=0.15, abs=0.1)
    assert found.position_cv == pytest.approx(asked.position_cv, rel=0.15, abs=0.08)
    assert found.neighbour == pytest.approx(asked.neighbour, abs=0.06)
    if asked.channel_cv:
        assert found.persistence == pytest.approx(asked.persistence, abs=0.12)
    if asked.position_cv:
        assert found.position_neighbour == pytest.approx(asked.position_neighbour, abs=0.15)


def test_dead_channels_stay_dead():
    """A quarter of 64 channels is never essential, in the masks and in the densities."""
    scheme = Scheme.parse("unstructured:0.9")
    trace = synthesise(
        "net",
        scheme,
        images=8,
        statistics=flat(scheme, channel_cv=0.8, persistence=0.5, dead=0.25),
        layers=[small(64, 16)],
    )
    dead = ~trace.mask(0).any((0, 2, 3))
    assert 16 <= dead.sum() <= 20  # a few of the others have tiny rates
    assert (trace.density(0)[dead] < 0.01).all()
    assert (trace.density(0) == 0).sum() == 16


@pytest.mark.parametrize("scheme", ["unstructured:0.9", "structured:6:8"])
def test_densities_foretell_other_images(scheme):
    """Densities come from images that are not in the trace, yet rank the channels of those."""
    parsed = Scheme.parse(scheme)
    trace = synthesise(
        "net",
        parsed,
        images=8,
        statistics=flat(parsed, channel_cv=0.8, persistence=0.9),
        layers=[small(128, 16)],
    )
    density, found = trace.density(0), trace.mask(0).mean((0, 2, 3))
    assert density.mean() == pytest.approx(found.mean(), rel=0.2)
    assert np.corrcoef(density, found)[0, 1] > 0.9


def test_bad_arguments():
    with pytest.raises(InputError, match="images must be at least 1, not 0"):
        synthesise("tiny", "dense", 0)
    with pytest.raises(InputError, match="seed must not be negative, not -1"):
        synthesise("tiny", "dense", seed=-1)
    with pytest.raises(InputError, match=r"network must be one of"):
        synthesise("alexnet", "dense")
    with pytest.raises(InputError, match=r"scheme must be dense, .*not 'half'"):
        synthesise("tiny", "half")


def test_bundled_statistics_are_labelled():
    statistics = bundled_statistics()
    assert ("measured" in statistics.source) == bool(statistics.command)
    assert "measured" in statistics.source or "assumed" in statistics.source


def test_interpolation_by_hand():
    """Linear in depth within a ratio, then linear in the ratio, flat outside."""

    def point(ratio, depth, cv):
        return Point(
            ratio=ratio,
            depth=depth,
            channel_cv=cv,
            persistence=0,
            dead=0,
            position_cv=0,
            position_neighbour=0,
            neighbour=0,
        )

    points = (point(0.5, 0, 0.0), point(0.5, 1, 1.0), point(0.9, 0.5, 3.0))
    statistics = Statistics(source="test", command="", points=points)
    assert statistics.at(0.5, 0.25).channel_cv == pytest.approx(0.25)
    assert statistics.at(0.7, 0.5).channel_cv == pytest.approx((0.5 + 3) / 2)
    assert statistics.at(0.1, 0).channel_cv == 0
    assert statistics.at(1, 0).channel_cv == 3


@settings(max_examples=30, deadline=None)
@given(
    ratio=st.floats(0.01, 0.999),
    channel_cv=st.floats(0, 9),
    dead=st.floats(0, 1),
    position_cv=st.floats(0, 9),
    share=st.floats(0, 1),
    scheme=st.sampled_from(["unstructured:0.03", "unstructured:0.97", "structured:5:8"]),
)
def test_any_statistics_give_masks(ratio, channel_cv, dead, position_cv, share, scheme):
    """Statistics that no masks can have are met as far as possible, never with an error."""
    point = Point(
        ratio=ratio,
        depth=0,
        channel_cv=channel_cv,
        persistence=share,
        dead=dead,
        position_cv=position_cv,
        position_neighbour=share,
        neighbour=share,
    )
    statistics = Statistics(source="test", command="", points=(point,))
    trace = synthesise("net", scheme, statistics=statistics, layers=[small(9, 4), small(1, 1)])
    assert np.isfinite(trace.density(0)).all()
