"""A small trace and a result made by hand, shared by the tests of energy, run and figure 5."""

import numpy as np
import pandas as pd
import pytest

from sinai.common.layer import Layer
from sinai.common.machine import PRESETS
from sinai.common.scheme import Scheme
from sinai.sim import Result
from sinai.sim.counts import EVENTS
from sinai.traces.schema import Manifest, make

LAYERS = (
    Layer(
        name="a",
        c_in=8,
        c_out=8,
        kernel=1,
        stride=1,
        padding=0,
        h_in=2,
        w_in=2,
        k=4,
        projection_nonzeros=10,
    ),
    Layer(
        name="b",
        c_in=8,
        c_out=16,
        kernel=1,
        stride=1,
        padding=0,
        h_in=2,
        w_in=2,
        k=4,
        projection_nonzeros=12,
    ),
)


@pytest.fixture(scope="session")
def trace_of():
    """Make a trace of two layers and two images by scheme; every eighth channel is
    essential, in the second image every fourth."""

    def make_trace(scheme="unstructured:0.875", synthetic=True):
        manifest = Manifest(
            network="pair",
            synthetic=synthetic,
            scheme=scheme,
            selection="by hand",
            noise_target=0.875,
            seed=0,
            image_indices=(0, 1),
            one_net=True,
            command="test",
            layers=LAYERS,
        )
        masks = []
        for layer in LAYERS if scheme != "dense" else ():
            mask = np.zeros((2, layer.c_out, layer.h_out, layer.w_out), dtype=bool)
            mask[0, ::8] = True
            mask[1, ::4] = True
            masks.append(mask)
        return make(manifest, masks)

    return make_trace


@pytest.fixture(scope="session")
def result(trace_of):
    """Two images of two layers with round numbers in every count."""
    machine = PRESETS["unstructured"]
    rows, counts = [], []
    for image in (0, 1):
        for layer, cycles in zip(LAYERS, (100 * (image + 1), 50), strict=True):
            rows.append(
                {
                    "image": image,
                    "layer": layer.name,
                    "kind": "conv",
                    "cycles": cycles,
                    "busy_cycles": cycles - 30,
                    "stall_dma": 0,
                    "stall_rpu": 20,
                    "stall_fill": 10,
                    "slots_useful": 16 * (cycles - 30),
                    "slots_idle_imbalance": 0,
                    "essential": layer.neurons // 8,
                    "neurons": layer.neurons,
                    "macs16": layer.macs // 8,
                    "macs4": layer.neurons * layer.k,
                    "cycles_load": 3,
                    "cycles_store": 2,
                }
            )
            known = {
                "weights.read": 7,
                "x.read": 5,
                "mvu.mac16": 1000,
                "select.scan": 4,
                "p.write": 2,
            }
            counts.append(dict.fromkeys(EVENTS, 0) | known)
    return Result(
        trace=trace_of(),
        machine=machine,
        scheme=Scheme.parse("unstructured:0.875"),
        engine="fast",
        ideal=False,
        layers=pd.DataFrame(rows),
        counts=pd.DataFrame(counts),
    )
