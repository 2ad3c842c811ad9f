"""A small converted, calibrated and distilled network for every test that needs one."""

import copy

import numpy as np
import pytest
import torch

from sinai.model import data, distill, nets


@pytest.fixture(autouse=True)
def seeded():
    """Weights and draws of a test do not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def images():
    """Ninety-six smooth random images of three classes, as a training split."""
    rng = np.random.default_rng(5)
    coarse = torch.from_numpy(rng.random((96, 3, 6, 6), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    pixels = (smooth * 255).round().to(torch.uint8).numpy()
    labels = np.arange(96, dtype=np.int64) % 3
    return data.Images("random/train", pixels, labels, ("a", "b", "c"))


@pytest.fixture(scope="session")
def _trained(normed):
    return normed("tiny")


@pytest.fixture(scope="session")
def normed(images):
    """Function from a name to an untrained network of three classes whose batch-norms have seen
    images, so that folding matters, in eval mode."""
    return lambda name: _normed(name, images)


def _normed(name, images):
    torch.manual_seed(3)
    net = nets.build(name, 3)
    generator = torch.Generator().manual_seed(4)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    with torch.no_grad():
        for start in range(0, 96, 32):
            net.train()(torch.from_numpy(images.images[start : start + 32]).float() / 255)
    return net.eval()


@pytest.fixture
def trained(_trained):
    """A fresh copy of the tiny network, in eval mode."""
    return copy.deepcopy(_trained)


@pytest.fixture(scope="session")
def checkpoint(_trained, images):
    """The tiny network distilled on the random images."""
    return distill.distill_net(copy.deepcopy(_trained), "tiny", images, seed=7, training={})
