"""Small traces that several test files take apart."""

import numpy as np
import pytest

from sinai.common.layer import Layer
from sinai.traces.schema import Manifest


@pytest.fixture
def layer():
    """5 channels of 3x3 neurons: 45 bits, so the last byte of a row has three bits of padding."""
    return Layer(name="conv", c_in=4, c_out=5, kernel=3, stride=1, padding=1, h_in=3, w_in=3, k=20)


@pytest.fixture
def manifest(layer):
    """Manifest of two images of one layer, as `make` takes it; keywords replace its fields."""

    def build(**fields):
        values = {
            "network": "net",
            "synthetic": True,
            "scheme": "unstructured:0.9",
            "selection": "top-k",
            "noise_target": 0.9,
            "seed": 0,
            "image_indices": (7, 8),
            "one_net": True,
            "command": "test",
            "layers": [layer],
        }
        return Manifest(**(values | fields))

    return build


@pytest.fixture
def mask():
    return np.random.default_rng(0).random((2, 5, 3, 3)) < 0.3
