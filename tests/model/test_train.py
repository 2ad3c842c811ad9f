"""Training: resumed is the same as uninterrupted, and what is refused."""

import numpy as np
import pytest
import torch

from sinai.common.errors import InputError
from sinai.model.data import Images
from sinai.model.train import Recipe, accuracy, train

RECIPE = Recipe(model="tiny", resolutions=(16, 24), batch=32, bfloat16=False)


class Stopped(Exception):
    pass


def stop_after(step):
    def progress(done, steps, loss, hit):
        if done > step:
            raise Stopped

    return progress


def test_a_resumed_run_gives_the_same_network(images, tmp_path):
    """Stopped in the first epoch and in the second; saved after every step."""
    whole = train(RECIPE, images, tmp_path / "whole")
    for step in (2, 4):
        with pytest.raises(Stopped):
            train(RECIPE, images, tmp_path / "parts", progress=stop_after(step), save_every_s=0)
        state = torch.load(tmp_path / "parts" / "state.pt", weights_only=True)
        assert state["step"] == step
    parts = train(RECIPE, images, tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_learns_which_half_is_bright(tmp_path):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 100, (128, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(128, dtype=np.int64) % 2
    pixels[labels == 1, :, 16:] += 120
    bright = Images("halves", pixels, labels, ("upper", "lower"))
    net = train(RECIPE, bright, tmp_path / "run")
    assert accuracy(net, bright) > 0.9
    assert accuracy(net, bright, indices=[0, 1]) in (0.0, 0.5, 1.0)


def test_bad_input_is_refused(images, tmp_path):
    train(RECIPE, images, tmp_path / "run")
    with pytest.raises(InputError, match="holds the state of another recipe"):
        train(Recipe(model="tiny", seed=1, batch=32), images, tmp_path / "run")
    with pytest.raises(InputError, match="batch must be at most the 96 images"):
        train(Recipe(model="tiny", batch=97), images, tmp_path / "other")
    with pytest.raises(InputError, match="model must be one of"):
        train(Recipe(model="vgg"), images, tmp_path / "other")
