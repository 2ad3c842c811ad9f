"""The paper's figures: copied digit by digit, and every one has a row of ours or a reason."""

import pytest

from sinai.model.exp_plan import EXPERIMENTS
from sinai.report.exp_output import beside_paper
from sinai.report.paper_robustness import figures, lookup
from sinai.report.verbs_exp import _NAMES


def printed(table, dataset, method):
    return {
        f.attack: float(f.pct) for f in figures(table) if (f.dataset, f.method) == (dataset, method)
    }


@pytest.mark.parametrize("method", ["OAT", "PNI", "L2P", "RPF", "SINAI"])
@pytest.mark.parametrize(
    ("table", "dataset"), [("table1", "CIFAR-10"), ("table1", "CIFAR-100"), ("table2", "CIFAR-10")]
)
def test_averages_are_the_means_of_the_columns(table, dataset, method):
    """The paper prints both: a digit copied wrong would show."""
    row = printed(table, dataset, method)
    average = row.pop("average")
    row.pop("none")
    assert average == pytest.approx(sum(row.values()) / len(row), abs=0.0051)


@pytest.mark.parametrize(
    ("table", "dataset", "attack", "gain"),
    [
        ("table1", "CIFAR-10", "PGD-20", 14.74),
        ("table1", "CIFAR-10", "AutoAttack", 15.49),
        ("table1", "CIFAR-100", "PGD-20", 13.60),
        ("table1", "CIFAR-100", "AutoAttack", 11.25),
        ("table2", "CIFAR-10", "PGD-20", 19.7),
        ("table4", "ImageNet", "PGD-10", 6.05),
        ("table4", "ImageNet", "PGD-50", 6.18),
        ("table7", "CIFAR-10", "adaptive PGD-20", 3.68),
        ("table7", "CIFAR-100", "adaptive PGD-20", 2.81),
    ],
)
def test_gains_of_the_text_follow(table, dataset, attack, gain):
    """The text and the rows "Improvement" give differences of the rows that are copied."""
    sinai, oat = (printed(table, dataset, method)[attack] for method in ("SINAI", "OAT"))
    assert sinai - oat == pytest.approx(gain, abs=1e-9)


def test_figures_that_several_tables_print_agree():
    tables = {"table5": "INT4", "table6": "", "table8": "", "table1": ""}
    for table, variant in tables.items():
        found = lookup(
            table, "CIFAR-10", "resnet18", "SINAI", "unstructured:0.9", variant, "PGD-20"
        )
        assert found == "67.27", table


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_figure_has_a_point_or_a_reason(name):
    """And no point of ours is called as none of the paper's rows where it should be."""
    points = [
        {
            "dataset": p.subject.dataset,
            "network": p.subject.network,
            "method": p.subject.method,
            "scheme": p.scheme,
            "variant": p.variant,
            "attack": p.label,
            "shares": None,
        }
        for p in EXPERIMENTS[name].points
    ]
    if "average" in EXPERIMENTS[name].summary:
        groups = {(p["dataset"], p["method"], p["scheme"]): p for p in points}
        points += [{**p, "attack": "average"} for p in groups.values()]
    rows = beside_paper(name, points)
    ours = [row for row in rows if row["paper"] is not None and "remark" not in row]
    others = {(row["method"], row["variant"]) for row in rows if "remark" in row}
    gains = 4 if name == "fig3" else 0
    assert len(ours) + len(rows) - len(points) == len(figures(name)) - gains
    assert others == {
        "table3": {(m, "") for m in ("TRADES", "FAT", "AWP", "RobustWRN")},
        "table4": {("RobustWRN", ""), ("DoubleWinQuant", "")},
        "table5": {("SINAI", "INT32")},
    }.get(name, set())


def test_the_command_knows_every_experiment():
    assert tuple(EXPERIMENTS) == _NAMES
