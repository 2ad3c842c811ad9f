"""Where the cycles go: sums by layer and phase, the figures of `sinai run`, and their bars."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from sinai.common.contract import CONTRACT, STALL_CAUSES
from sinai.common.errors import InputError
from sinai.common.layer import Layer
from sinai.common.machine import PRESETS, override
from sinai.report import cycles_plot, cycles_sweeps
from sinai.report.cli import main
from sinai.report.cycles import PHASES, TAXONOMY, Run, causes, cycles, markdown, plan, totals
from sinai.sim import simulate
from sinai.traces.schema import Manifest, load, make
from sinai.traces.synth import synthesise

STREAMED = ("dma.capacity_kib=64", "dma.bytes_per_cycle=2")
PAGE = Path(__file__).parents[2] / "docs" / "cycles.md"


def trace_from(layer, scheme):
    """A trace of one layer and image whose first N of 8 channels are essential."""
    manifest = Manifest(
        network="one",
        synthetic=True,
        scheme=scheme,
        selection="by hand",
        noise_target=0.875,
        seed=0,
        image_indices=(0,),
        one_net=True,
        command="test",
        layers=(layer,),
    )
    mask = np.zeros((1, layer.c_out, layer.h_out, layer.w_out), dtype=bool)
    mask[:, ::8] = True
    return make(manifest, [mask])


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """A file with a small synthetic trace of two images, unstructured masks."""
    path = tmp_path_factory.mktemp("masks") / "tiny.npz"
    synthesise("tiny", "unstructured:0.8", images=2).save(path)
    return path


@pytest.fixture(scope="module")
def published():
    """The bundled ResNet-18 at 7:8 on the structured machine."""
    [run] = plan(machines=["structured"])
    return cycles(simulate(run.trace, run.machine, images=[0]))


def told_by_the_timeline(spans, total):
    """Cycles by phase and cause, `busy` among them, from the spans of a layer: each cycle belongs
    to the step that ends next, unless it is before any or after all work of a part."""
    cause = ["busy"] * total
    for span in spans:
        if span.row == "stalls":
            cause[span.begin : span.end] = [span.name] * (span.end - span.begin)
    steps = sorted((span.end, span.row) for span in spans if span.row in "AE")
    counted, begin = Counter(), 0
    for end, row in [*steps, (total, "")]:
        phase = {"A": "approximate", "E": "exact", "": "ends"}[row]
        for name in cause[begin:end]:
            counted["ends" if name in ("dma", "fill", "drain") else phase, name] += 1
        begin = end
    return counted


@pytest.mark.parametrize(
    ("machine", "scheme", "changes"),
    [
        ("structured-small", "structured:7:8", ()),
        ("structured-small", "structured:5:8", STREAMED),
        ("structured-small", "unstructured:0.9", ()),
        ("structured-small", "dense", ()),
        ("unstructured-small", "unstructured:0.9", ()),
        ("unstructured-small", "unstructured:0.99", STREAMED),
        ("unstructured-small", "dense", ()),
    ],
)
def test_causes_sum_to_the_cycles_of_each_layer_and_phase(machine, scheme, changes):
    """By layer the engine's own total; by phase and cause what the stepped engine's timeline shows,
    cycle by cycle, which knows nothing of the counters."""
    described = override(PRESETS[machine], list(changes))
    dense = scheme == "dense"
    trace = synthesise("tiny", "structured:7:8" if dense else scheme)
    result = simulate(trace, described, dense=dense)
    found = causes(result)
    assert found.sum(axis=1).tolist() == result.layers["cycles"].tolist()
    assert (found >= 0).all(axis=None)
    stepped = simulate(trace, described, dense=dense, engine="stepped", timeline=True)
    pd.testing.assert_frame_equal(causes(stepped), found)
    seen = Counter()
    for (_, row), spans in zip(found.iterrows(), stepped.spans, strict=True):
        expected = told_by_the_timeline(spans, int(row.sum()))
        seen.update(expected)
        for phase in PHASES:
            assert row[phase].sum() == sum(n for (p, _), n in expected.items() if p == phase)
        for phase, cause in TAXONOMY:
            if cause not in ("useful", "idle"):
                assert row[phase, cause] == expected[phase, cause], (phase, cause)
    assert {cause for _, cause in seen} >= {"busy", "fill", "drain"}
    assert {entry for entry in seen if entry[1] != "busy"} <= TAXONOMY.keys()


def test_useful_and_idle_are_the_slots(trace_of):
    """Together the simulator's slots; useful is V T times what the masks ask for."""
    result = simulate(trace_of("unstructured:0.875"), PRESETS["unstructured-small"])
    found = causes(result)
    lanes = PRESETS["unstructured-small"].vpus
    useful = found["approximate", "useful"] + found["exact", "useful"]
    idle = found["approximate", "idle"] + found["exact", "idle"]
    assert (useful * lanes).tolist() == result.layers["slots_useful"].tolist()
    idle_slots = result.layers[["slots_idle_pixels", "slots_idle_channels", "slots_idle_imbalance"]]
    assert (idle * lanes).tolist() == idle_slots.sum(axis=1).tolist()


def test_a_layer_by_hand():
    """7:8 on a 2x2 map: V = 2, T = 2, w = 4, so 2 batches of 1 issue, 18 beats, loads of 8 cycles.

    APPROXIMATE: 4 units of 4 issues. Both halves of the buffer are full when p arrives; the other
    two units wait 8 - 4 cycles each. The masks take `to_indices`, the cycle after the last issue
    not waited for. By then two beats of EXACT are loaded; the other 16 wait 8 - 2 cycles.
    """
    layer = Layer(
        name="a", c_in=8, c_out=16, kernel=3, stride=1, padding=1, h_in=2, w_in=2, k=64,
        projection_nonzeros=9,
    )  # fmt: skip
    result = simulate(trace_from(layer, "structured:7:8"), PRESETS["structured-small"])
    found = causes(result).iloc[0]
    expected = {
        "approximate": {"useful": 4 * 4, "idle": 0, "shallow": 2 * (8 - 4)},
        "exact": {
            "useful": 18 * 2,
            "idle": 0,
            "select": CONTRACT.to_indices - 1,
            "scan": 0,
            "xbank": 0,
            "shallow": 16 * (8 - 2),
        },
        "ends": {"dma": 0, "fill": CONTRACT.launch(2), "drain": CONTRACT.drain - 1},
    }
    waits = found["approximate"].to_dict()
    assert waits.pop("rpu") == found.sum() - sum(sum(part.values()) for part in expected.values())
    assert found["approximate", "rpu"] > 2 * 8  # later than both halves' loads
    assert waits == expected["approximate"]
    assert found["exact"].to_dict() == expected["exact"]
    assert found["ends"].to_dict() == expected["ends"]


def test_last_layer_of_resnet18_by_hand(published):
    """512 x 9 / 16 beats in 512 / 32 supergroups, two issues of which each load allows eight: what
    the loads take and no more, but for the first ones after a change of phase."""
    [row] = [row for name, row in totals(published, "layer").iterrows() if name == "blocks.7.conv2"]
    loads = 512 * 9 // 16 * (512 // 32)
    assert row["exact", "useful"] == 2 * loads
    assert row["exact", "shallow"] == pytest.approx((8 - 2) * loads, rel=2e-3)


def test_taxonomy_has_every_cause():
    """A new cause of the contract needs a place here, and a look."""
    assert {cause for _, cause in TAXONOMY} == {*STALL_CAUSES, "useful", "idle"}
    assert cycles_plot._LOOK.keys() == TAXONOMY.keys()


def test_the_ideal_bound_has_work_alone(trace_of):
    result = simulate(trace_of("unstructured:0.875"), PRESETS["unstructured-small"], ideal=True)
    found = causes(result)
    assert found.sum(axis=1).tolist() == result.layers["cycles"].tolist()
    waits = [entry for entry in TAXONOMY if entry[1] not in ("useful", "idle")]
    assert (found[waits] == 0).all(axis=None)


def test_figures_are_those_of_run(masks, tmp_path, capsys):
    """Two images, streamed: total, busy and every cause as `sinai run` has them."""
    words = ["--machine", "structured-small", *(w for c in STREAMED for w in ("--set", c))]
    assert main(["run", str(masks), *words, "-o", str(tmp_path / "run"), "--json"]) == 0
    wanted = json.loads(capsys.readouterr().out)
    out = tmp_path / "cycles"
    assert main(["cycles", "--trace", str(masks), *words, "-o", str(out), "--json"]) == 0
    [made] = json.loads(capsys.readouterr().out)["runs"]
    table = pd.read_csv(out / "cycles.csv")
    by_cause = table.groupby("cause")["cycles"].sum()
    assert by_cause.sum() == wanted["cycles"] == made["cycles"]
    assert by_cause["useful"] + by_cause["idle"] == wanted["busy_cycles"]
    for cause, value in wanted["stall_cycles"].items():
        assert by_cause[cause] == value, cause
    layers = pd.read_csv(tmp_path / "run" / "layers.csv").groupby("layer")["cycles"].mean()
    assert table.groupby("layer")["cycles"].sum().to_dict() == layers.to_dict()
    assert table["share_of_network"].sum() == pytest.approx(1)
    assert table.groupby("layer")["share_of_layer"].sum().to_numpy() == pytest.approx(1)
    assert (table["images"] == 2).all()
    assert not table["real_trace"].any()
    assert {path.name for path in out.iterdir()} == {
        "cycles.csv",
        "cycles.md",
        "cycles.json",
        "cycles-tiny-structured-small-unstructured-0.8.png",
    }
    assert (out / "cycles-tiny-structured-small-unstructured-0.8.png").read_bytes()[1:4] == b"PNG"
    assert "synthetic masks, mean of 2 image(s)" in (out / "cycles.md").read_text()


def test_images_are_means(masks):
    """The mean of two images is half of their sum, layer by layer; one given twice counts once."""
    from sinai.report.cycles import simulate_run

    run = Run(load(masks), PRESETS["unstructured-small"])
    one, two, both, twice = (
        cycles(simulate_run(run, images))["cycles"].to_numpy()
        for images in ([0], [1], None, [1, 1])
    )
    assert both == pytest.approx((one + two) / 2)
    assert (one != two).any()
    assert (twice == two).all()


def test_markdown_shows_what_the_table_has(published):
    text = markdown(published)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    [deep] = [row for row in rows if row and row[0] == "4x4"]
    values = [int(cell.replace(",", "")) for cell in deep[1:]]
    assert values[0] == sum(values[1:])
    assert sum(row[:1] == ["exact"] for row in rows) == sum(p == "exact" for p, _ in TAXONOMY)


def test_page_shows_the_figures_of_today(published):
    """`sinai cycles -o cycles` and `make cycles` make them anew."""
    page = PAGE.read_text(encoding="utf-8")
    shown = [line for line in markdown(published).splitlines() if line.startswith("|")]
    by_layer = next(n for n, line in enumerate(shown) if line.startswith("| layer"))
    assert [line for line in shown[:by_layer] if line not in page] == []


def test_plan_by_default_is_both_machines_on_real_masks():
    made = [(run.machine.name, str(run.scheme), run.trace.synthetic) for run in plan()]
    assert made == [
        ("structured", "structured:7:8", False),
        ("unstructured", "unstructured:0.875", False),
    ]


@pytest.mark.parametrize(
    ("schemes", "machines", "expected"),
    [
        (["dense"], [], [("structured", "dense"), ("unstructured", "dense")]),
        (["structured:4:8"], [], [("structured", "structured:4:8")]),
        (["unstructured:7/8"], ["structured"], [("structured", "unstructured:0.875")]),
        ([], ["structured-expanded"], [("structured-expanded", "structured:7:8")]),
    ],
)
def test_plan_fits_machines_to_schemes(schemes, machines, expected):
    runs = plan(schemes=schemes, machines=machines)
    assert [(run.machine.name, str(run.scheme)) for run in runs] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--scheme unstructured:0.42", "no bundled trace of resnet18 has this scheme"),
        ("--scheme half", "scheme must be dense, unstructured:RATIO"),
        ("--trace no.npz", "no.npz: cannot be read"),
        ("--trace {masks} --scheme unstructured:0.5", "has masks of unstructured:0.8; give that"),
        ("--machine structured --machine structured", "is asked for twice"),
        ("--machine nothing", "machine 'nothing': no such preset"),
        ("--machine unstructured --scheme structured:4:8", "needs a structured machine"),
        ("--trace {masks} --machine unstructured-small --image 9", "between 0 and 1, not 9"),
        ("--set lanes=3", "lanes must be a power of two"),
        ("--set clock_ns=0.5", "clock_ns must be at least"),
    ],
)
def test_bad_input_is_one_sentence(words, message, masks, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["cycles", *words.format(masks=masks).split(), "-o", str(out)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith("sinai: ") for line in said] == [True]
    assert message in said[-1]
    assert not list(tmp_path.iterdir())


def test_a_result_is_replaced_by_force_alone(masks, tmp_path, capsys):
    words = ["cycles", "--trace", str(masks), "--machine", "unstructured-small"]
    words += ["--image", "0", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    assert "unstructured-small, unstructured:0.8:" in capsys.readouterr().out
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


def test_bars_are_as_long_as_the_cycles(published):
    """Parts of a bar follow each other without gap and end at the layer's cycles."""
    by_layer = totals(published, "layer")
    ax = cycles_plot.bars(by_layer, Figure().subplots(), scale=1e-3)
    ends = Counter()
    for patch in ax.patches:
        row = round(patch.get_y() + patch.get_height() / 2)
        assert patch.get_x() == pytest.approx(ends[row])
        ends[row] += patch.get_width()
    assert [ends[n] for n in range(len(by_layer))] == pytest.approx(by_layer.sum(axis=1) / 1000)
    assert [label.get_text() for label in ax.get_yticklabels()] == by_layer.index.tolist()


def test_looks_are_told_apart_without_colour():
    """Every two causes that are drawn apart differ in pattern, or far in brightness."""
    weights = (0.299, 0.587, 0.114)
    looks = [look for entry, look in cycles_plot._LOOK.items() if entry in cycles_plot._LABELS]
    for n, (colour, hatch) in enumerate(looks):
        for other, other_hatch in looks[:n]:
            light = [np.dot(weights, to_rgb(c)) for c in (colour, other)]
            assert hatch != other_hatch or abs(light[0] - light[1]) > 0.1, (colour, other, hatch)


@pytest.fixture(scope="module")
def shapes():
    """The sweep of T and beta alone."""
    chosen = [c for c in cycles_sweeps.sweep_cases() if c.sweep == "structured_shape"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cycles_sweeps, "sweep_cases", lambda: chosen)
        return cycles_sweeps.sweep(workers=1, progress=False)


def test_no_wait_for_weights_where_the_rule_says_so(shapes):
    """On 4x4 maps a beat issues 16 N / T cycles and loads 8 / beta, N = 1: none from T <= 2 beta
    on. Larger maps issue for longer. Port: V beta words of 256 bit."""
    assert len(shapes) == 16
    columns = [f"{phase}_{cause}" for phase, cause in TAXONOMY]
    assert shapes[columns].sum(axis=1).tolist() == shapes["cycles"].tolist()
    for row in shapes.to_dict("records"):
        t, v, beta = (int(word.split("=")[1]) for word in row["setting"].split())
        assert (row["exact_shallow"] == 0) == (t <= 2 * beta), row["setting"]
        assert (row["weight_bits"], row["multipliers"]) == (v * beta * 256, 8192)


def test_sweeps_cover_what_they_promise():
    made = cycles_sweeps.sweep_cases()
    by_sweep = Counter(case.sweep for case in made)
    assert by_sweep == {"ratio": 7, "structured_shape": 16, "expanded": 1, "window": 12}
    assert all(case.path for case in made)  # real masks alone


def test_sweeps_in_words_and_bars(shapes):
    compared = pd.DataFrame(
        [
            {
                "network": "net",
                "scheme": "structured:7:8",
                "real_trace": False,
                "edp_over_unstructured": 1.25,
                "edp_over_ideal": 2.5,
                "latency_over_unstructured": 1.0,
                "energy_over_unstructured": 0.75,
                "interpolated": True,
                "edp_norm": 0.0625,
                "shallow_share": 0.125,
                "idle_share_unstructured": 0.5,
            }
        ]
    )
    text = cycles_sweeps.markdown(shapes, compared)
    row = "| net (synthetic) | structured:7:8 | 1.250 | 2.500 | 1.000 | 0.750 | yes | 0.0625 |"
    assert f"{row} 12.5% | 50.0% |" in text
    [line] = [line for line in text.splitlines() if line.startswith("| T=8 V=4 beta=1 |")]
    assert line.split("|")[4].strip() == "312,563"
    figure = cycles_sweeps.draw(shapes)
    [ax] = figure.axes
    assert len(ax.get_yticklabels()) == len(shapes)


def test_comparison_of_the_smallest_network(monkeypatch):
    """Synthetic masks exist at every ratio: none interpolated, 4:8, 6:8 and 7:8 as asked."""
    monkeypatch.setattr(cycles_sweeps, "_NETWORKS", ("tiny",))
    rows = cycles_sweeps.comparison(workers=1, progress=False)
    assert rows["scheme"].tolist() == ["structured:4:8", "structured:6:8", "structured:7:8"]
    assert not rows["real_trace"].any()
    assert not rows["interpolated"].any()
    product = rows["latency_over_unstructured"] * rows["energy_over_unstructured"]
    assert product.to_numpy() == pytest.approx(rows["edp_over_unstructured"].to_numpy(), rel=1e-6)


def test_plan_refuses_a_bad_scheme():
    with pytest.raises(InputError, match="M must be at least 1"):
        plan(schemes=["structured:0:0"])
