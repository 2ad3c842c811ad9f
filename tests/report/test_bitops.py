"""BitOPs by hand, and against the paper's printed tables."""

from dataclasses import replace

import pytest

from sinai.common.errors import InputError
from sinai.common.layer import Layer
from sinai.report.bitops import bitops, paper_ratio

LAYER = Layer(
    name="a",
    c_in=4,
    c_out=8,
    kernel=3,
    stride=1,
    padding=1,
    h_in=5,
    w_in=5,
    k=18,
    projection_nonzeros=100,
)


def test_dense_by_hand():
    """25 pixels x 8 channels x 36 deep x 272."""
    assert bitops([LAYER], None) == 25 * 8 * 36 * 272


def test_exact_by_hand():
    """20 essential neurons of depth 36; approximate 200 x 18; projection 100 additions a pixel."""
    expected = 272 * 36 * 20 + 20 * 200 * 18 + 4 * 100 * 25 + 16 * 18 * 25 + 4 * 200
    assert bitops([LAYER], [20]) == expected
    assert bitops([LAYER], 0.1) == pytest.approx(expected)


def test_tap_projects_input_pixels():
    """Stride 2: 9 output pixels, but 25 input pixels are projected."""
    patch = replace(LAYER, stride=2)
    tap = replace(patch, projection="tap")
    assert bitops([tap], [0]) - bitops([patch], [0]) == 4 * 100 * (25 - 9)


@pytest.mark.parametrize(
    ("noise", "printed"),
    [
        (0.1, 2.53e9),
        (1 / 8, 2.47e9),
        (0.2, 2.27e9),
        (2 / 8, 2.14e9),
        (0.3, 2.01e9),
        (0.5, 1.49e9),
        (6 / 8, 8.42e8),
        (0.8, 7.12e8),
        (7 / 8, 5.17e8),
        (0.9, 4.52e8),
    ],
)
def test_paper_rule_gives_table_6(noise, printed):
    """With dense = 2.603e9 (printed 2.60) every row of table 6, to its three digits."""
    assert 2.603e9 * paper_ratio(noise) == pytest.approx(printed, rel=0.003)
    share = bitops([LAYER], 1 - noise, rule="paper") / bitops([LAYER], None)
    assert share == pytest.approx(paper_ratio(noise))


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="rule must be one of exact, paper, not 'best'"):
        bitops([LAYER], None, rule="best")
    with pytest.raises(InputError, match=r"between 0 and 1, not 1\.5"):
        bitops([LAYER], 1.5)
    with pytest.raises(InputError, match="must have 1 numbers, not 2"):
        bitops([LAYER], [1, 2])
