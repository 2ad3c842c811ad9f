"""Robustness joined with EDP: the right traces, the right numbers, nothing joined that differs."""

import json

import numpy as np
import pandas as pd
import pytest

from sinai.common.errors import InputError
from sinai.common.robustness import WORST, load
from sinai.report.cli import main
from sinai.report.plots import draw_tradeoff
from sinai.report.points import Job, points
from sinai.report.tradeoff import COLUMNS, find_traces
from sinai.traces import schema

DIGEST, OTHER = "ab" * 32, "cd" * 32
ACCURACY = {
    "dense": (0.9, 0.1, 0.1, 0.05),
    "unstructured:0.8": (0.8, 0.2, 0.5, 0.2),
    "structured:6:8": (0.75, 0.25, None, 0.16),
}


def row(scheme, attack, clean, straight, paper, worst):
    names = ("clean", "straight_through", "as_in_paper", "worst_case")
    shares = dict(zip(names, (clean, straight, paper, worst), strict=True))
    return {"scheme": scheme, "attack": attack, "images": 100, **shares, "median_l2": None}


def record(**changes):
    rows = [row(scheme, "pgd", 0.9, 0.4, 0.6, 0.4) for scheme in ACCURACY]
    rows.append(row("structured:6:8", "square", 0.9, None, None, 0.4))
    rows += [row(scheme, WORST, *shares) for scheme, shares in ACCURACY.items()]
    made = {
        "schema_version": 1,
        "checkpoint": "pair",
        "model_digest": DIGEST,
        "projection": "patch",
        "data": "npz:made-up/test",
        "settings": {"eps": 8 / 255, "steps": 20},
        "bounded": ["pgd", "square"],
        "rows": rows,
        "labels": [0],
    }
    return {name: value for name, value in (made | changes).items() if value != "absent"}


@pytest.fixture
def attacked(tmp_path):
    """Write a record with these changes and give its directory."""

    def write(**changes):
        folder = tmp_path / "robust"
        folder.mkdir(exist_ok=True)
        (folder / "robustness.json").write_text(json.dumps(record(**changes)))
        return folder

    return write


@pytest.fixture
def trace(trace_of, tmp_path):
    """Write a real trace of two small layers and give its path."""

    def write(scheme, digest=DIGEST, synthetic=False, projection="patch"):
        made = trace_of(scheme, synthetic)
        fields = made.manifest.model_dump(by_alias=True) | {"model_digest": digest, "arrays": {}}
        fields["layers"] = [{**layer, "projection": projection} for layer in fields["layers"]]
        manifest = schema.Manifest.model_validate(fields)
        masks = [] if scheme == "dense" else [made.mask(i) for i in range(2)]
        path = tmp_path / f"{scheme.replace(':', '-')}-{digest[:2]}-{projection}-{synthetic}.npz"
        schema.make(manifest, masks).save(path)
        return path

    return write


def test_rows_are_accuracies_beside_the_points_of_figure_5(attacked, trace, tmp_path, capsys):
    paths = [trace("unstructured:0.8"), trace("structured:6:8")]
    command = ["tradeoff", str(attacked()), "--workers", "1", "-o", str(tmp_path / "out")]
    command += [word for path in paths for word in ("--traces", str(path))]
    assert main(command) == 0
    table = pd.read_csv(tmp_path / "out" / "tradeoff.csv")
    assert tuple(table) == COLUMNS
    assert table[["scheme", "machine"]].to_numpy().tolist() == [
        ["dense", "unstructured"],
        ["dense", "structured"],
        ["dense", "structured-expanded"],
        ["structured:6:8", "structured"],
        ["structured:6:8", "structured-expanded"],
        ["unstructured:0.8", "unstructured"],
        ["unstructured:0.8", "structured"],
    ]
    known = {
        (scheme, each["machine"]): each
        for scheme, path in zip(ACCURACY, (paths[0], *paths), strict=True)
        for each in points(Job("pair", scheme, path))
    }
    unit = known["dense", "unstructured"]["edp_js"]
    for _, each in table.iterrows():
        clean, straight, paper, worst = ACCURACY[each["scheme"]]
        assert (each["clean"], each["straight_through"], each["worst_case"]) == (
            clean,
            straight,
            worst,
        )
        assert each["as_in_paper"] == paper if paper is not None else np.isnan(each["as_in_paper"])
        assert each["worst_case_se"] == pytest.approx((worst * (1 - worst) / 100) ** 0.5)
        point = known[each["scheme"], each["machine"]]
        assert each["edp_norm"] == pytest.approx(point["edp_js"] / unit)
        assert each["trace_images"] == 2
    text = capsys.readouterr().out
    # of every eight channels the first image keeps one, the second two
    assert "| unstructured:0.8 | 81.2 % | 80.0 ± 4.0 % | 50.0 ± 5.0 % | 20.0 ± 4.0 % |" in text
    assert "| structured:6:8 | 75.0 % | 75.0 ± 4.3 % | - | 16.0 ± 3.7 % | - |" in text
    assert "of pgd, square with every gradient, dense without square, unstructured:0.8 with" in text
    assert table["attacks"].tolist() == ["pgd"] * 3 + ["pgd square"] * 2 + ["pgd"] * 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"tradeoff.{kind}" for kind in ("csv", "md", "json", "png", "svg")
    }
    made = json.loads((tmp_path / "out" / "tradeoff.json").read_text())
    assert made["model_digest"] == DIGEST
    assert [each["as_in_paper"] for each in made["rows"][3:5]] == [None, None]
    assert main(command) == 2, "a directory is not overwritten unasked"


def test_the_figure_shows_each_accuracy_where_it_was_measured():
    rows = []
    for machine, scheme, noise, edp in (
        ("unstructured", "dense", 0, 1.0),
        ("structured", "dense", 0, 0.9),
        ("unstructured", "unstructured:0.8", 0.8, 0.1),
        ("structured", "unstructured:0.8", 0.8, 0.5),
        ("structured", "structured:6:8", 0.75, 0.08),
    ):
        names = ("clean", "straight_through", "as_in_paper", "worst_case")
        shares = dict(zip(names, ACCURACY[scheme], strict=True))
        errors = {f"{name}_se": 0.01 for name in names}
        found = {"scheme": scheme, "machine": machine, "noise": noise, "edp_norm": edp}
        rows.append({**found, **shares, **errors})
    figure = draw_tradeoff(pd.DataFrame(rows).astype({"as_in_paper": float}), "caption")
    assert figure.texts[0].get_text() == "caption"
    for ax, machine, scheme, edp in zip(
        figure.axes,
        ("unstructured", "structured"),
        ("unstructured:0.8", "structured:6:8"),
        ([1.0, 0.1], [0.9, 0.08]),
        strict=True,
    ):
        assert ax.get_title() == f"{machine} machine"
        assert "EDP" in ax.get_xlabel()
        lines = {each.get_label(): each.lines[0] for each in ax.containers}
        assert list(lines) == ["clean", "as in paper", "worst case"]
        assert lines["as in paper"].get_fillstyle() == "none"
        for label, index in (("clean", 0), ("worst case", 3)):
            shown = [100 * ACCURACY[name][index] for name in ("dense", scheme)]
            np.testing.assert_allclose(lines[label].get_xydata(), np.transpose([edp, shown]))
        assert {text.get_text() for text in ax.texts} == {"dense", scheme.partition(":")[2]}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"digest": OTHER}, "its model_digest is cdcdcdcdcdcd, that of the attacked network"),
        ({"synthetic": True}, "its masks are synthetic"),
        ({"projection": "tap"}, "its form of P is tap, that of the attacked network is patch"),
        ({"scheme": "structured:4:8"}, "its scheme, structured:4:8, was not attacked"),
    ],
)
def test_what_does_not_belong_together_is_refused(attacked, trace, tmp_path, capsys, wrong, words):
    good = [trace("unstructured:0.8"), trace("structured:6:8")]
    bad = trace(**{"scheme": "structured:6:8"} | wrong)
    command = ["tradeoff", str(attacked()), "-o", str(tmp_path / "out")]
    for path in (*good, bad):
        command += ["--traces", str(path)]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert words in said
    assert str(bad) in said
    assert not (tmp_path / "out").exists()


def test_every_attacked_scheme_needs_a_trace(attacked, trace, monkeypatch):
    with pytest.raises(InputError, match=r"structured:6:8: there is no trace of network abababab"):
        find_traces(load(attacked()), [trace("unstructured:0.8")])
    with pytest.raises(InputError, match=r"structured:6:8 and unstructured:0.8: there is no"):
        find_traces(load(attacked()))  # none that comes with the package is of this network
    rows = [row("dense", WORST, 0.9, 0.1, 0.1, 0.1)]
    with pytest.raises(InputError, match="dense: there is no trace"):
        find_traces(load(attacked(rows=rows)))
    paths = {name: trace(name) for name in ("unstructured:0.8", "structured:6:8", "dense")}
    other = trace("structured:6:8", digest=OTHER)
    monkeypatch.setattr(schema, "bundled", lambda: {**paths, "other": other})
    assert find_traces(load(attacked())) == list(paths.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_digest": "absent"}, "has no model_digest; give the record of an attack on a"),
        ({"projection": "patch or tap"}, "projection must be patch or tap, not 'patch or tap'"),
        ({"schema_version": 2}, "schema_version: .*give a record that this version"),
        ({"rows": [row("dense", WORST, 1.5, None, None, 0.1)]}, "rows.0.clean"),
        ({"bounded": []}, "bounded"),
    ],
)
def test_bad_records_are_refused(attacked, changes, words):
    with pytest.raises(InputError, match=f"robustness.json: .*{words}|{words}"):
        load(attacked(**changes))


def test_what_is_no_record_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none")
    (tmp_path / "robustness.json").write_text("{")
    with pytest.raises(InputError, match="Invalid JSON"):
        load(tmp_path)


def test_attack_writes_what_is_read():
    """The columns that attacks write are those that are read here, but the distance."""
    from sinai.common.robustness import COLUMNS as WRITTEN
    from sinai.common.robustness import Row

    assert {*WRITTEN} - {*Row.model_fields} == {"median_l2"}
