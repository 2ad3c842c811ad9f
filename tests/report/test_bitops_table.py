"""The paper's BitOPs, digit for digit, and `sinai bitops`."""

import csv
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinai.common.errors import InputError
from sinai.report import paper_bitops
from sinai.report.bitops import paper_ratio
from sinai.report.bitops_table import COLUMNS, markdown, strided_shortcuts_dense, table
from sinai.report.cli import main
from sinai.report.paper_bitops import BASES, base_interval, figures, interval, to_digits
from sinai.traces import networks, schema

#: Table 6 of the paper, BitOPs by noise, in its order; the same for CIFAR-10 and CIFAR-100.
TABLE_6 = [
    ("unstructured:0.1", Fraction(1, 10), "2.53e9"),
    ("structured:1:8", Fraction(1, 8), "2.47e9"),
    ("unstructured:0.2", Fraction(2, 10), "2.27e9"),
    ("structured:2:8", Fraction(2, 8), "2.14e9"),
    ("unstructured:0.3", Fraction(3, 10), "2.01e9"),
    ("structured:4:8", Fraction(4, 8), "1.49e9"),
    ("unstructured:0.5", Fraction(5, 10), "1.49e9"),
    ("structured:6:8", Fraction(6, 8), "8.42e8"),
    ("unstructured:0.8", Fraction(8, 10), "7.12e8"),
    ("structured:7:8", Fraction(7, 8), "5.17e8"),
    ("unstructured:0.9", Fraction(9, 10), "4.52e8"),
]


def sinai_rows(number, **options):
    return [
        row
        for row in table(**options)
        if row["table"] == number and row["scheme"] not in ("", "dense")
    ]


@pytest.mark.parametrize("dataset", ["CIFAR-10", "CIFAR-100"])
def test_table_6_digit_for_digit(dataset):
    rows = [row for row in sinai_rows("6") if row["dataset"] == dataset]
    expected = [(scheme, printed, printed, True) for scheme, _, printed in TABLE_6]
    names = ("scheme", "printed_bitops", "paper_bitops", "paper_agrees")
    assert [tuple(row[name] for name in names) for row in rows] == expected


@pytest.mark.parametrize(
    ("number", "bitops", "rows"), [("1", "4.52e8", 2), ("2", "4.88e9", 1)], ids=["1", "2"]
)
def test_tables_1_and_2_digit_for_digit(number, bitops, rows):
    """BitOPs at 90 % and the saving printed under them, 82.6 %."""
    found = sinai_rows(number)
    assert len(found) == rows
    for row in found:
        assert (row["printed_bitops"], row["paper_bitops"]) == (bitops, bitops)
        assert (row["printed_saving_pct"], row["paper_saving_pct"]) == ("82.6", "82.6")
        assert row["paper_agrees"] is True


def test_table_4_does_not_follow_and_says_so():
    """ResNet-50 at 50 %: 0.5 + 20/272 of 3.34e12 is 1.92e12, printed is 2.02e12."""
    rows = table(["resnet50"])
    [row] = [row for row in rows if row["scheme"] == "unstructured:0.5"]
    assert (row["printed_bitops"], row["paper_bitops"]) == ("2.02e12", "1.92e12")
    assert (row["printed_saving_pct"], row["paper_saving_pct"]) == ("39.5", "42.6")
    assert row["paper_agrees"] is False
    assert (row["fit_bitops"], row["fit_saving_pct"]) == ("2.02e12", "39.4")
    text = markdown(rows)
    assert "| 2.02e12 | 1.92e12 | **no** | 39.5 | 42.6 |" in text
    assert "(a fit), it would give 2.02e12 and 39.4 %" in text


def test_fit_by_hand():
    """Strided 1x1 shortcuts of ResNet-50: 256 to 512 at 28x28, 512 to 1024 at 14x14, 1024 to 2048
    at 7x7, each 102,760,448 multiply-accumulates; 4,087,136,256 in all its convolutions."""
    share = Fraction(3 * 102_760_448, 4_087_136_256)
    found = strided_shortcuts_dense(networks.layers("resnet50"), Fraction(1, 2))
    assert found == share + (1 - share) * (Fraction(1, 2) + Fraction(20, 272))


def test_few_dense_bases_give_table_6():
    """Of 2.595e9 ... 2.604e9, which are printed 2.60e9, only 2.602e9 and 2.603e9 do."""
    ratios = [(1 - noise + Fraction(20, 272), printed) for _, noise, printed in TABLE_6]
    low, high = base_interval([*ratios, (Fraction(1), "2.60e9")])
    fitting = [base for base in range(2_595_000_000, 2_605_000_000, 10**6) if low <= base < high]
    assert fitting == [2_602_000_000, 2_603_000_000]
    assert BASES["1"] == BASES["6"] == 2_603_000_000


def test_base_of_table_2_is_as_printed():
    low, high = base_interval(
        [(Fraction(1), "2.81e10"), (Fraction(1, 10) + Fraction(20, 272), "4.88e9")]
    )
    assert low <= BASES["2"] < high


def test_empty_interval_shows_that_no_base_fits():
    """Table 4: 3.34e12 for dense and 2.02e12 at 50 % contradict each other under the rule."""
    low, high = base_interval([(Fraction(1), "3.34e12"), (paper_ratio(Fraction(1, 2)), "2.02e12")])
    assert low >= high
    with pytest.raises(ValueError, match="must not be empty"):
        base_interval([])


@given(st.integers(100, 999), st.integers(0, 14), st.fractions(0, 1))
def test_interval_holds_what_rounds_to_the_digits(mantissa, exponent, where):
    printed = f"{mantissa / 100:.2f}e{exponent}"
    low, high = interval(printed)
    assert high - Fraction(printed) == Fraction(10) ** (exponent - 2) / 2
    assert to_digits(low) == printed
    value = low + (high - low) * where
    assert (to_digits(value) == printed) == (value < high)


@pytest.mark.parametrize(
    ("value", "digits", "printed"),
    [
        (452_000_000, 3, "4.52e8"),
        (Fraction(4525, 10), 3, "4.53e2"),  # half up, not to even
        (Fraction(9995, 1000), 3, "1.00e1"),
        (Fraction(1, 1000), 3, "1.00e-3"),
        (2_603_000_000, 4, "2.603e9"),
    ],
)
def test_to_digits(value, digits, printed):
    assert to_digits(value, digits) == printed


def test_figures_of_the_package_are_complete():
    """Ten rows in table 1, five in 2 and in 4, twenty-two in 6, each with three digits."""
    count = {number: 0 for number in "1246"}
    for each in figures():
        count[each.table] += 1
        assert to_digits(Fraction(each.bitops)) == each.bitops
    assert count == {"1": 10, "2": 5, "4": 5, "6": 22}


def test_rows_that_cannot_be_derived_have_no_value_of_ours():
    rows = [row for row in table() if row["method"] in ("PNI", "L2P", "Double-Win Quantization")]
    assert len(rows) == 7
    for row in rows:
        assert row["printed_bitops"]
        assert row["paper_bitops"] is row["counted_exact_bitops"] is row["paper_agrees"] is None


def test_absolute_counts_are_not_rescaled():
    """ResNet-18: 555,417,600 multiply-accumulates of 272 BitOPs, 58 times what is printed."""
    rows = table(["resnet18"])
    [dense] = [row for row in rows if (row["method"], row["dataset"]) == ("OAT", "CIFAR-10")]
    assert dense["counted_dense_bitops"] == dense["counted_exact_bitops"] == 272 * 555_417_600
    assert "1.51e11 BitOPs at 272 a 16-bit multiply-accumulate, 58 times" in markdown(rows)


def by_hand(trace):
    """Rule `exact` of a `patch` trace, layer by layer from the masks."""
    total = 0
    for index, layer in enumerate(trace.layers):
        essential = np.count_nonzero(trace.mask(index)) / trace.images
        total += 272 * layer.d * essential + 20 * layer.c_out * layer.k * layer.pixels
        total += (4 * layer.projection_nonzeros + 16 * layer.k + 4 * layer.c_out) * layer.pixels
    return total


def test_exact_counts_the_masks_of_a_bundled_trace():
    trace = schema.load(schema.bundled()["resnet18-unstructured-0.9"])
    [row] = [row for row in sinai_rows("1") if row["dataset"] == "CIFAR-10"]
    assert row["masks"] == "real, resnet18-unstructured-0.9"
    assert row["noise"] == pytest.approx(trace.manifest.noise_measured, abs=1e-3)
    assert row["counted_exact_bitops"] == pytest.approx(by_hand(trace), rel=1e-12)
    dense = sum(272 * layer.macs for layer in trace.layers)
    assert row["exact_relative"] == row["counted_exact_bitops"] / dense


def test_without_masks_the_density_is_nominal():
    row = sinai_rows("4")[0]
    assert (row["noise"], row["masks"]) == (0.5, "none: nominal density")
    [tap] = sinai_rows("1", models=["resnet18"], projection="tap")[:1]
    assert (tap["projection"], tap["masks"]) == ("tap", "none: nominal density")


def test_a_trace_of_ones_own_is_counted(tmp_path, trace_of):
    """Layers of 4 pixels, 8 -> 8 and 8 -> 16 channels, d = 8, k = 4, P with 10 and 12 nonzeros;
    3/16 of the neurons are essential: 6 and 12 an image."""
    path = tmp_path / "pair.npz"
    trace_of("unstructured:0.875", synthetic=True).save(path)
    [row] = [row for row in table(["pair"], traces=[path])]
    approximate = 20 * (32 + 64) * 4 + 4 * (10 + 12) * 4 + 16 * 4 * 4 * 2 + 4 * (32 + 64)
    assert row["counted_exact_bitops"] == 272 * 8 * 18 + approximate
    assert row["noise"] == 1 - 18 / 96
    assert row["masks"].startswith("synthetic, ")
    assert row["paper_saving_pct"] == "80.1"
    with pytest.raises(InputError, match=r"unstructured:0\.875 of pair is already given"):
        table(traces=[path, path])


def test_one_rule_alone_leaves_the_other_out():
    [paper] = sinai_rows("2", rules=["paper"])
    assert paper["paper_bitops"] == "4.88e9"
    assert paper["counted_exact_bitops"] is paper["masks"] is None
    [exact] = sinai_rows("2", rules=["exact"])
    assert exact["paper_bitops"] is exact["counted_paper_bitops"] is None
    assert exact["counted_exact_bitops"] > 0
    with pytest.raises(InputError, match="rule must be one of"):
        table(rules=["best"])


def test_a_wrong_figure_would_be_seen(monkeypatch):
    """4.53e8 in place of 4.52e8: agreement is compared, not assumed."""
    wrong = tuple(
        paper_bitops.Printed(**vars(each) | {"bitops": each.bitops.replace("4.52e8", "4.53e8")})
        for each in figures()
    )
    monkeypatch.setattr("sinai.report.bitops_table.figures", lambda: wrong)
    assert {row["paper_agrees"] for row in sinai_rows("1")} == {False}


def test_command_writes_its_tables(tmp_path, capsys):
    out = tmp_path / "bitops"
    assert main(["bitops", "--model", "wrn34_10", "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert (out / "bitops.md").read_text(encoding="utf-8") == text
    assert "| CIFAR-10 | SINAI 90 % | 4.88e9 | 4.88e9 | yes | 82.6 | 82.6 |" in text
    with (out / "bitops.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert rows[-1]["paper_agrees"] == "True"
    record = json.loads((out / "bitops.json").read_text(encoding="utf-8"))
    assert record["command"].startswith("sinai bitops --model wrn34_10")
    assert len(record["rows"]) == len(rows) == 5
    assert main(["bitops", "--model", "wrn34_10", "-o", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["bitops", "--model", "wrn34_10", "-o", str(out), "--force", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 5


def test_command_refuses_an_unknown_network(capsys):
    assert main(["bitops", "--model", "vgg"]) == 2
    assert "network must be one of" in capsys.readouterr().err


def test_command_counts_networks_without_printed_figures(capsys):
    assert main(["bitops", "--model", "vit_b16", "--rule", "paper"]) == 0
    assert "| vit_b16 | unstructured:0.9 | 82.6 |" in capsys.readouterr().out
