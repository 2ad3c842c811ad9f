"""The verb `sinai exp`: what it writes of an experiment, and what it refuses."""

import csv
import json

import numpy as np
import pytest

from sinai.report.cli import main
from sinai.report.exp_checklist import checklist
from sinai.report.exp_output import beside_paper, markdown, write

torch = pytest.importorskip("torch")

from sinai.model import exp_run  # noqa: E402
from sinai.model.exp_plan import EXPERIMENTS  # noqa: E402
from sinai.model.exp_rows import mean, row_of, summarised  # noqa: E402
from sinai.model.exp_scales import SCALES  # noqa: E402


def made_up(name, datasets=("CIFAR-10", "ImageNet"), images=8):
    """A record with drawn results: what every image counts is 0 or 1."""
    experiment, scale = EXPERIMENTS[name], SCALES["tiny"]
    rng, rows = np.random.default_rng(0), []
    for point in experiment.points:
        if point.subject.dataset not in datasets:
            rows.append(row_of(point, scale, f"no data: {point.subject.dataset} is not given"))
            continue
        gradients = point.gradients or ("straight-through", "as-in-paper")
        if point.attack in ("square", "random"):
            gradients = ("none",)
        elif point.scheme == "dense":
            gradients = ("straight-through",)
        names = ("clean", *(gradients if point.attack != "none" else ()))
        shares = {
            name: {"right": rng.integers(0, 2, images).astype(float).tolist()} for name in names
        }
        if point.attack != "none":
            found = [each["right"] for each in shares.values()]
            shares["worst"] = {"right": np.min(found, axis=0).tolist()}
        row = row_of(point, scale) | exp_run._columns(shares, point.scheme)
        rows.append(row | {"data": "drawn/test", "autoattack_remarks": []})
    return {
        "schema": 1,
        "experiment": name,
        "title": experiment.title,
        "notes": list(experiment.notes),
        "scale": "tiny",
        "caps": ["everything is made up"],
        "each": False,
        "seed": 0,
        "device": "cpu",
        "data": {"CIFAR-10": {"spec": "drawn", "name": "drawn/test"}},
        "rows": summarised(rows, experiment.summary),
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_files_hold_what_was_measured_beside_what_is_printed(name, tmp_path):
    record = made_up(name)
    write(record, tmp_path, command="sinai exp")
    wanted = {f"{name}.csv", f"{name}.md", f"{name}.json"}
    wanted |= {f"{name}.png"} if name.startswith("fig") else set()
    wanted |= {"table10-checklist.csv"} if name == "table10" else set()
    assert {path.name for path in tmp_path.iterdir()} == wanted
    assert json.loads((tmp_path / f"{name}.json").read_text())["rows"] == record["rows"]
    with (tmp_path / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(beside_paper(name, record["rows"]))
    for row in rows:
        assert all(row[column] for column in ("dataset", "network", "method", "attack"))
        for column in ("clean", "straight_through", "as_in_paper", "worst_case", "paper"):
            assert row[column] == "" or 0 <= float(row[column]) <= 1
    text = (tmp_path / f"{name}.md").read_text()
    assert "everything is made up" in text
    assert all(note in text for note in record["notes"])
    assert "None" not in text
    assert ("no data: CIFAR-100 is not given" in text) == (
        "CIFAR-100" in {r["dataset"] for r in rows}
    )


def test_a_row_by_hand():
    """Table 11: the worst case of three images, and the paper's 72.06 beside it."""
    record = made_up("table11")
    row = next(r for r in record["rows"] if r["method"] == "SINAI" and r["attack"] == "Square")
    row |= {"clean": 0.75, "worst_case": 0.375, "straight_through": None, "as_in_paper": None}
    lines = markdown(record, command="sinai exp table11").splitlines()
    assert "| SINAI | unstructured:0.9 | Square | 75.0 | - | - | 37.5 | 72.06 |" in lines


def test_nothing_is_drawn_of_nothing(tmp_path):
    write(made_up("fig3", datasets=()), tmp_path, command="sinai exp")
    assert not (tmp_path / "fig3.png").exists()


def test_bitops_are_those_of_the_paper_where_they_follow():
    text = markdown(made_up("table1"), command="sinai exp table1")
    [line] = [ln for ln in text.splitlines() if ln.startswith("| CIFAR-10 | SINAI 90 %")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3:5] == ["4.52e8", "0.1735"]  # 1 - 0.9 + 20/272


def found(**shares):
    """Rows of the checklist's attacks by hand: right after each."""
    labels = {
        "fgsm": ("FGSM", "fgsm", 8),
        "square": ("Square", "square", 8),
        "random": ("random sampling", "random", 8),
        "unbounded": ("unbounded PGD", "unbounded", 8),
        "pgd4": ("PGD-20, eps 4/255", "pgd", 4),
        "pgd8": ("PGD-20", "pgd", 8),
    }
    rows = []
    for key, right in shares.items():
        label, kind, eps = labels[key]
        gradient = "none" if key in ("square", "random") else "straight-through"
        rows.append(
            {
                "method": "OAT",
                "scheme": "dense",
                "attack": label,
                "kind": kind,
                "eps": eps / 255,
                "shares": {gradient: {"right": right}},
            }
        )
    return [row["sign"] for row in checklist(rows)]


HONEST = {
    "fgsm": [1, 1, 1, 1, 0, 0],
    "square": [1, 1, 1, 1, 1, 0],
    "random": [1, 1, 1, 1, 1, 1],
    "unbounded": [0, 0, 0, 0, 0, 0],
    "pgd4": [1, 1, 1, 1, 0, 0],
    "pgd8": [1, 1, 1, 0, 0, 0],
}


@pytest.mark.parametrize(
    ("changed", "item"),
    [
        ({}, None),
        ({"fgsm": [1, 0, 0, 0, 0, 0]}, 1),
        ({"fgsm": [1, 1, 0, 0, 0, 0]}, None),  # one image is as likely chance
        ({"square": [1, 0, 0, 0, 0, 0]}, 2),
        ({"square": [1, 0, 0, 1, 1, 0]}, None),  # two for PGD alone, two for Square alone
        ({"unbounded": [1, 0, 0, 0, 0, 0]}, 3),
        ({"random": [0, 1, 1, 1, 1, 1]}, 4),
        ({"pgd4": [1, 1, 1, 0, 0, 0]}, 5),
    ],
)
def test_each_sign_shows_where_it_should_and_nowhere_else(changed, item):
    signs = found(**HONEST | changed)
    assert signs == [number == item for number in range(1, 6)]


def test_what_was_not_run_shows_no_sign_and_no_absence():
    rows = made_up("table10", datasets=())["rows"]
    assert {row["sign"] for row in checklist(rows)} == {None}


@pytest.fixture
def quick(monkeypatch):
    """The experiment is made up; the command around it is not."""
    asked = {}

    def pretend(name, scale, data, work, **options):
        asked.update(name=name, scale=scale, data=data, work=work, **options)
        options["say"]("a cap")
        options["tell"]("training", 1, 2)
        return made_up(name)

    monkeypatch.setattr(exp_run, "run", pretend)
    return asked


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "ten.npz"
    arrays = {"classes": np.array(list("abcdefghij"))}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = np.zeros((10, 3, 32, 32), np.uint8)
        arrays[f"{split}_labels"] = np.arange(10)
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_the_command_writes_and_keeps_old_results(quick, spec, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["exp", "table11", "--scale", "tiny", "--data", spec]
    assert main([*command, "--limit", "3", "--each", "--train-limit", "5"]) == 0
    assert (tmp_path / "table11-tiny" / "table11.md").exists()
    said = capsys.readouterr()
    assert "sinai: a cap" in said.err
    assert "| SINAI |" in said.out
    assert (quick["images"], quick["each"]) == (3, True)
    assert quick["work"] == tmp_path / "exp-work"
    assert quick["data"]["CIFAR-10"].train_images == 5
    assert main(command) == 2, "a directory is not overwritten unasked"
    assert main([*command, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["experiment"] == "table11"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table13"], "table13"),
        (["table1", "--scale", "huge"], "huge"),
        (["table1", "--limit", "0"], "0"),
        (["table1", "--data", "npz:none.npz"], "none.npz"),
        (["table1", "--work", "out"], "is the directory of the result"),
    ],
)
def test_bad_input_is_named(quick, spec, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    given = ["--scale", "tiny", "--data", spec, "-o", "out"]
    assert main(["exp", arguments[0], *given, *arguments[1:]]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_means_have_four_digits():
    assert mean({"right": [1, 0, 0]}) == 0.3333
    assert mean(None) is None
