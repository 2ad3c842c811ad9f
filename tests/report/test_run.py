"""The run directory: every file there, its sums right, and nothing missing to repeat the run."""

import dataclasses
import json

import pandas as pd
import pytest
import yaml

from sinai.common.errors import InputError
from sinai.common.machine import PRESETS, Machine, override
from sinai.report.energy import energy, ert
from sinai.report.run import summary, trace_digest, write_run
from sinai.sim import simulate


@pytest.fixture
def directory(result, tmp_path):
    write_run(result, tmp_path, command="sinai run pair.npz")
    return tmp_path


def test_summary_by_hand(result):
    """Two images of 150 and 250 cycles at 2 ns: 200 cycles, 400 ns on average."""
    made = summary(result)
    assert made["cycles"] == 200
    assert made["latency_s"] == pytest.approx(400e-9)
    assert made["busy_cycles"] == 200 - 2 * 30
    assert made["stall_cycles"] == {"dma": 0, "rpu": 40, "fill": 20}
    assert made["noise"] == 0.875
    assert (made["images"], made["real_trace"]) == (2, False)
    assert (made["cycles_load"], made["cycles_store"]) == (6, 4)
    spent = energy(result)["energy_pj"]
    first, second = spent[:2].sum(), spent[2:].sum()
    assert made["energy_pj"] == pytest.approx((first + second) / 2)
    expected = (first * 300e-9 + second * 500e-9) / 2 * 1e-12
    assert made["edp_js"] == pytest.approx(expected, rel=1e-9, abs=0)
    assert sum(made["energy_by_component_pj"].values()) == pytest.approx(made["energy_pj"])
    assert "mvu.mac16" in made["assumed"]
    assert "weights.write" not in made["assumed"]


def test_files(directory, result):
    names = {"config.yaml", "summary.json", "layers.csv", "ert.yaml", "art.yaml"}
    assert {path.name for path in directory.iterdir()} == names
    assert json.loads((directory / "summary.json").read_text()) == summary(result)


def test_config_repeats_the_run(directory, result):
    config = yaml.safe_load((directory / "config.yaml").read_text())
    assert Machine.model_validate(config["machine"]) == result.machine
    assert config["command"] == "sinai run pair.npz"
    assert config["trace"]["digest"] == trace_digest(result.trace)
    assert config["clock_hz"] == 5e8
    assert {"python", "sinai", "numpy", "simpy"} <= set(config["versions"])


def test_layers_table(directory):
    rows = pd.read_csv(directory / "layers.csv")
    assert rows["layer"].tolist() == ["a", "b", "a", "b"]
    stalls = rows[[name for name in rows if name.startswith("stall_")]].sum(axis=1)
    assert (rows["busy_cycles"] + stalls == rows["cycles"]).all()
    assert (rows["sram_weights_read"] == 7).all()
    parts = [name for name in rows if name.startswith("energy_") and name != "energy_pj"]
    assert rows[parts].sum(axis=1).tolist() == pytest.approx(rows["energy_pj"].tolist())


def test_tables_are_those_used(directory, result):
    written = yaml.safe_load((directory / "ert.yaml").read_text())["ert"]
    assert {name: entry["pj"] for name, entry in written.items()} == {
        name: entry.pj for name, entry in ert(result.machine).items()
    }
    areas = yaml.safe_load((directory / "art.yaml").read_text())["art"]
    assert areas["mvu"]["assumed"] is True
    assert areas["weights"]["assumed"] is False


def test_digest_depends_on_the_trace(trace_of):
    assert trace_digest(trace_of()) != trace_digest(trace_of("unstructured:0.8"))
    assert trace_digest(trace_of()) == trace_digest(trace_of())


def test_clock_faster_than_the_memories_is_refused(result, tmp_path):
    fast = dataclasses.replace(result, machine=override(result.machine, ["clock_ns=0.5"]))
    with pytest.raises(InputError, match="clock_ns must be at least"):
        write_run(fast, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["unstructured", "structured", "structured-expanded"])
def test_simulated_run_adds_up(name, trace_of, tmp_path):
    """A real result of the simulator: cycles are busy cycles and stalls, on every row."""
    result = simulate(trace_of(), PRESETS[name], dense=name == "structured-expanded")
    write_run(result, tmp_path)
    rows = pd.read_csv(tmp_path / "layers.csv")
    stalls = rows[[column for column in rows if column.startswith("stall_")]].sum(axis=1)
    assert (rows["busy_cycles"] + stalls == rows["cycles"]).all()
    assert (rows["energy_pj"] > 0).all()
