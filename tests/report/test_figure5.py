"""Figure 5: its table, its normalisation, its findings and its axes."""

import json
import operator

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sinai.common.errors import InputError
from sinai.report import points as points_module
from sinai.report import sweeps as sweeps_module
from sinai.report.bitops import bitops
from sinai.report.figure5 import CAPTION, figure5, redraw
from sinai.report.findings import findings, normalise, real_against_synthetic, same_ratio
from sinai.report.plots import METRICS, SERIES, draw_figure5, panel, select
from sinai.report.points import COLUMNS, Job, jobs, points, run_all
from sinai.report.sweeps import cases
from sinai.traces import networks

#: The columns that the product promises, in order.
PROMISED = (
    "schema,network,machine,scheme,noise,noise_target,real_trace,images,engine,projection,clock_hz,"
    "area_mm2,cycles,busy_cycles,stall_cycles,latency_s,energy_pj,edp_js,bitops,latency_norm,"
    "energy_norm,edp_norm,bitops_norm"
)


def row(machine, scheme, noise, **values):
    """A point made by hand; every measure is 1 unless given."""
    measures = dict.fromkeys(("latency_s", "energy_pj", "edp_js", "bitops"), 1.0) | values
    return {"network": "net", "machine": machine, "scheme": scheme, "noise": noise} | measures


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The whole figure for the smallest network, with synthetic masks."""
    directory = tmp_path_factory.mktemp("figure5")
    summary = figure5(directory, networks=["tiny"], with_sweeps=False, workers=1, progress=False)
    return directory, summary, pd.read_csv(directory / "figure5.csv")


def test_columns_are_those_promised(tiny):
    directory, _, table = tiny
    assert (directory / "figure5.csv").read_text().splitlines()[0] == PROMISED
    assert not table.isna().any(axis=None)


def test_rows_are_every_scheme_on_every_machine_that_runs_it(tiny):
    """dense: four machines; 7 structured ones: two; 12 unstructured ones: three."""
    _, _, table = tiny
    assert len(table) == 4 + 7 * 2 + 12 * 3
    assert table["scheme"].nunique() >= 1 + 15
    assert not table.duplicated(["machine", "scheme"]).any()
    assert not table["real_trace"].any()


def test_dense_on_unstructured_is_exactly_one(tiny):
    _, _, table = tiny
    dense = table[(table["machine"] == "unstructured") & (table["scheme"] == "dense")]
    assert dense[[name for name, _ in METRICS]].to_numpy().tolist() == [[1.0] * 4]


def test_columns_agree_with_each_other(tiny):
    _, _, table = tiny
    assert (table["busy_cycles"] + table["stall_cycles"] == table["cycles"]).all()
    assert np.allclose(table["latency_s"], table["cycles"] / table["clock_hz"], rtol=1e-12)
    one_image = table[table["images"] == 1]
    assert np.allclose(
        one_image["edp_js"], one_image["energy_pj"] * 1e-12 * one_image["latency_s"], rtol=1e-12
    )
    assert (table["noise"] - table["noise_target"]).abs().max() < 0.01


def test_bitops_column_by_hand(tiny):
    """The exact rule at the measured noise; 4 of 8 is the same share of every layer."""
    _, _, table = tiny
    layers = networks.layers("tiny")
    expected = bitops(layers, 0.5) / bitops(layers, None)
    found = table.loc[table["scheme"] == "structured:4:8", "bitops_norm"]
    assert found.tolist() == pytest.approx([expected] * 2)


def test_ideal_takes_fewer_cycles_and_never_stalls(tiny):
    _, _, table = tiny
    real = table[table["machine"] == "unstructured"].set_index("scheme")["cycles"]
    ideal = table[table["machine"] == "unstructured-ideal"].set_index("scheme")["cycles"]
    assert (ideal < real[ideal.index]).all()
    assert (table.loc[table["machine"] == "unstructured-ideal", "stall_cycles"] == 0).all()


def test_summary_says_what_it_rests_on(tiny):
    directory, summary, _ = tiny
    assert json.loads((directory / "summary.json").read_text()) == summary
    assert "mvu.mac16" in summary["assumed"]
    assert summary["findings"]["tiny"]["real_trace"] is False
    assert {trace["real_trace"] for trace in summary["traces"]} == {False}
    assert summary["versions"]["sinai"]
    assert summary["machines"]["structured"]["multipliers_4_bit"] == 8192


def test_pictures(tiny):
    directory, _, table = tiny
    png, svg = directory / "figure5.png", directory / "figure5.svg"
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    before = svg.read_bytes()
    redraw(table, directory)
    assert svg.read_bytes() == before


def test_falls_with_noise(monkeypatch):
    """A promise: on ResNet-18, on every machine, latency, energy and EDP never rise with noise from
    30 % on."""
    monkeypatch.setattr(points_module, "IMAGES", 2)
    found = run_all(points, jobs(None, ["resnet18"]), workers=1, progress=False, label="")
    table = normalise(pd.DataFrame([record for each in found for record in each]))
    falls = findings(table)["resnet18"]["falls_with_noise"]
    assert set(falls) == {series.label for series in SERIES}
    assert all(falling for each in falls.values() for falling in each.values()), falls


def test_findings_see_a_rise():
    """One point that costs more than its less noisy neighbour is reported."""
    common = {"real_trace": True, "stalls": {}, "slots": {}, "energy_by_device_pj": {}}
    rows = [
        row(series.machine, f"{series.masks}:{noise}", noise, **common)
        for series in SERIES
        for noise in (0.5, 0.9)
    ]
    rows += [row(series.machine, "dense", 0.0, **common) for series in (*SERIES[:2], *SERIES[3:])]
    rows[1] |= {"energy_pj": 1.1}
    falls = findings(normalise(pd.DataFrame(rows)))["net"]["falls_with_noise"]
    assert falls["unstructured"] == {"latency": True, "energy": False, "edp": True}
    assert falls["structured"] == {"latency": True, "energy": True, "edp": True}


def test_normalise_by_hand():
    table = normalise(
        pd.DataFrame(
            [
                row("unstructured", "dense", 0.0, latency_s=4.0, edp_js=8.0),
                row("structured", "structured:7:8", 0.875, latency_s=1.0, edp_js=2.0),
            ]
        )
    )
    assert table["latency_norm"].tolist() == [1.0, 0.25]
    assert table["edp_norm"].tolist() == [1.0, 0.25]
    assert table["energy_norm"].tolist() == [1.0, 1.0]


def test_same_ratio_by_hand():
    """Structured at 0.5 against unstructured 1.0 at 0.25 and 0.5 at 0.75: interpolated 0.75, in
    energy, too, and 0.75 * 0.75 in EDP, where its chord would be at 0.625."""
    table = pd.DataFrame(
        [
            row("unstructured", "dense", 0.0),
            row("unstructured", "unstructured:0.25", 0.25),
            row(
                "unstructured", "unstructured:0.75", 0.75, latency_s=0.5, energy_pj=0.5, edp_js=0.25
            ),
            row("unstructured-ideal", "dense", 0.0),
            row("unstructured-ideal", "unstructured:0.25", 0.25),
            row(
                "unstructured-ideal",
                "unstructured:0.75",
                0.75,
                latency_s=0.2,
                energy_pj=0.2,
                edp_js=0.04,
            ),
            row("structured", "structured:4:8", 0.5, latency_s=0.6),
            row("structured", "structured:6:8", 0.75, latency_s=0.4),
            row("structured", "structured:7:8", 0.875),  # beyond the last: no row
        ]
    )
    at_half, at_three_quarters = same_ratio(normalise(table))
    assert at_half["interpolated"] is True
    assert at_half["latency_over_unstructured"] == pytest.approx(0.6 / 0.75)
    assert at_half["latency_over_ideal"] == pytest.approx(0.6 / 0.6)
    assert at_half["edp_over_ideal"] == pytest.approx(1 / 0.6**2)
    assert at_half["edp_over_unstructured"] == pytest.approx(1 / 0.75**2)
    assert at_three_quarters["interpolated"] is False
    assert at_three_quarters["edp_over_unstructured"] == pytest.approx(1 / 0.25)
    assert at_three_quarters["latency_over_unstructured"] == pytest.approx(0.8)
    assert at_three_quarters["edp_over_ideal"] == pytest.approx(1 / 0.04)


def test_same_ratio_where_every_ratio_was_simulated():
    table = pd.DataFrame(
        [
            row("unstructured", "dense", 0.0),
            row("unstructured", "unstructured:0.5", 0.5, latency_s=0.5, edp_js=0.25),
            row("unstructured-ideal", "dense", 0.0),
            row("unstructured-ideal", "unstructured:0.5", 0.5, latency_s=0.4, edp_js=0.2),
            row("structured", "structured:4:8", 0.501, latency_s=0.6, edp_js=0.1),
        ]
    )
    [found] = same_ratio(normalise(table))
    assert found["interpolated"] is False
    assert found["edp_over_unstructured"] == pytest.approx(0.4)
    assert found["edp_over_ideal"] == pytest.approx(0.5)


def test_real_against_synthetic_by_hand():
    record = {"network": "net", "scheme": "unstructured:0.9", "noise": 0.9, "cycles": 200.0}
    found = real_against_synthetic([record, record | {"synthetic_cycles": 150.0}])
    assert [each["relative_error"] for each in found] == [-0.25]


def test_real_traces_are_used_and_compared(trace_of, tmp_path, monkeypatch):
    """8 x 1 x 4 and 16 x 1 x 4 channels and pixels: 4 and 8 essential neurons in the first image,
    twice as many in the second, hence 6 and 12 on average."""
    asked = []
    synthesise = points_module.synthesise
    monkeypatch.setattr(
        points_module,
        "synthesise",
        lambda *args, **named: asked.append((args, named)) or synthesise(*args, **named),
    )
    path = tmp_path / "pair.npz"
    trace_of(synthetic=False).save(path)
    planned = jobs([path], ["pair"])
    assert planned == [Job("pair", "dense", path), Job("pair", "unstructured:0.875", path)]
    records = points(planned[1])
    assert [record["machine"] for record in records] == [
        "unstructured",
        "unstructured-ideal",
        "structured",
    ]
    assert all(record["real_trace"] and record["images"] == 2 for record in records)
    layers = trace_of().layers
    assert {record["bitops"] for record in records} == {bitops(layers, [6, 12])}
    assert asked == [(("pair", "unstructured:0.875", 2, 0), {"layers": layers})]
    assert records[0]["synthetic_cycles"] > 0
    assert "synthetic_cycles" not in records[2]


def test_two_traces_of_one_scheme_are_refused(trace_of, tmp_path):
    for name in ("first.npz", "second.npz"):
        trace_of().save(tmp_path / name)
    with pytest.raises(InputError, match=r"second.npz: scheme unstructured:0.875 .* by .*first"):
        jobs([tmp_path / "first.npz", tmp_path / "second.npz"])


def test_heaviest_networks_start_first():
    order = [job.network for job in jobs(None)]
    assert order[0] == "resnet50"
    assert order.index("wrn34_10") < order.index("resnet18")
    assert set(order) == {"resnet18", "wrn34_10", "resnet50"}


@pytest.mark.parametrize("workers", [1, 2])
def test_run_all_keeps_the_order(workers):
    values = run_all(operator.neg, range(5), workers=workers, progress=False, label="")
    assert values == [0, -1, -2, -3, -4]


def test_sweeps_hold_the_published_machines():
    """Every sweep has the published value of what it varies."""
    found = {(case.sweep, case.overrides, case.placement) for case in cases([])}
    assert ("window", ("window=16",), True) in found
    assert ("unstructured_shape", ("lanes=16", "pses=32"), True) in found
    assert ("structured_shape", ("columns=8", "lanes=4", "weight_words=1"), True) in found
    assert {case.projection for case in cases([])} == {"", "patch", "tap"}


def test_sweeps_name_the_best(monkeypatch):
    """Two windows and the bound: the wider window wins, the bound does not count."""
    chosen = [case for case in cases([]) if case.sweep == "window" and case.placement]
    chosen = [
        case for case in chosen if case.ideal or case.overrides[0] in ("window=1", "window=8")
    ]
    bandwidth = [case for case in cases([]) if case.sweep == "bandwidth" and not case.overrides]
    monkeypatch.setattr(sweeps_module, "cases", lambda jobs: chosen + bandwidth)
    found = sweeps_module.sweeps([], workers=1, progress=False)
    assert found["window"]["best_edp"] == {"unstructured": "window=8"}
    best = min(found["window"]["rows"], key=lambda row: row["edp_js"])
    assert best["ideal"] is True
    assert [row["machine"] for row in found["bandwidth"]] == ["unstructured", "structured"]
    for each in found["bandwidth"]:
        assert each["latency_over_dense"] == each["latency_over_resident_dense"] < 0.5


def test_panel_draws_what_it_is_given(tiny):
    _, _, table = tiny
    ax = panel(table.sample(frac=1, random_state=0), "latency_norm", Figure().subplots())
    assert [line.get_label() for line in ax.lines] == [series.label for series in SERIES]
    for line, series in zip(ax.lines, SERIES, strict=True):
        rows = select(table, series)
        assert line.get_xdata().tolist() == (100 * rows["noise"]).tolist()
        assert line.get_ydata().tolist() == rows["latency_norm"].tolist()
        assert (np.diff(line.get_xdata()) > 0).all()
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > table["latency_norm"].max()


def test_series_differ_without_colour():
    styles = {(series.marker, series.line) for series in SERIES}
    assert len(styles) == len({series.colour for series in SERIES}) == len(SERIES)
    assert len({series.marker for series in SERIES}) == len(SERIES)


def test_bitops_panel_draws_each_kind_of_mask_once(tiny):
    _, _, table = tiny
    ax = panel(table, "bitops_norm", Figure().subplots())
    assert [line.get_label() for line in ax.lines] == ["unstructured", "structured"]


def test_figure_is_labelled(tiny):
    _, _, table = tiny
    figure = draw_figure5(table, "Energies are assumed.")
    assert len(figure.axes) == 4
    assert [ax.get_title() for ax in figure.axes] == [title for _, title in METRICS]
    assert all(ax.get_xlabel() == "noise ratio, measured [%]" for ax in figure.axes)
    assert figure.axes[0].get_ylabel() == "tiny\n(synthetic masks)\nrelative to dense [1]"
    assert len(figure.legends) == 1
    assert "Energies are assumed." in [text.get_text() for text in figure.texts]
    assert figure.axes[3].get_yscale() == "log"


def test_nothing_overlaps(tiny):
    """Legend, titles, panels and caption, in pixels of the drawn figure."""
    _, _, table = tiny
    networks = [table.assign(network=name) for name in ("resnet18", "wrn34_10", "resnet50")]
    caption = CAPTION.format(masks="Masks of resnet18 are real. Masks of others are synthetic.")
    figure = draw_figure5(pd.concat(networks), caption)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    panels = [ax.get_tightbbox(renderer) for ax in figure.axes]
    boxes = [*panels, figure.legends[0].get_window_extent(renderer)]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_csv_constant_is_the_promise():
    assert ",".join(COLUMNS) == PROMISED
