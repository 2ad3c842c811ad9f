"""Distillation: less error than the random start, the same result twice, refusals."""

import copy
import json

import numpy as np
import pytest
import torch

from sinai.common.errors import InputError
from sinai.model import checkpoint as store
from sinai.model import data, distill
from sinai.model.calibrate import calibrate, observe, rows_at, streams, sums_of
from sinai.model.chain import Link, chain
from sinai.model.fit import Moments
from sinai.model.sinai import convert
from sinai.model.train import Recipe, train
from sinai.traces import networks


def squared_errors(net, x):
    """Mean |z - z~|^2 over |z - mean z|^2 of every layer on the network's own activations."""
    found = {}

    def visit(link, x, z):
        noise = link.module.approximate(x)
        found[link.name] = float((noise - z).square().mean() / z.var())

    observe(net, chain(net), x, visit)
    return found


@pytest.mark.parametrize("projection", ["patch", "tap"])
def test_distilling_reduces_the_error_of_every_layer(trained, checkpoint, images, projection):
    x = torch.from_numpy(images.images[:32]).float() / 255
    start = squared_errors(
        convert(copy.deepcopy(trained), projection=projection, seed=7, batch_norm="fold"), x
    )
    after = squared_errors(checkpoint.floating(projection), x)
    recorded = checkpoint.manifest.distillation["relative_error"][projection]
    assert after.keys() == recorded.keys()
    for name, error in after.items():
        assert error < 0.6 * start[name], name
        assert error < 2 * recorded[name] < 1, name  # the record is over noisy inputs, too


def test_distilling_twice_gives_the_same_digest(trained, checkpoint, images):
    again = distill.distill_net(trained, "tiny", images, seed=7, training={})
    assert again.digest == checkpoint.digest


def test_another_seed_gives_another_network(trained, checkpoint, images):
    other = distill.distill_net(trained, "tiny", images, images=50, seed=8, training={})
    assert other.digest != checkpoint.digest


def test_rows_are_the_windows_of_the_layer(checkpoint, images):
    """P times the sampled windows is what the layer computes there."""
    net = checkpoint.floating("patch")
    layer = net.blocks[1].conv1  # stride 2
    x = torch.rand(3, 8, 32, 32) * 10 * float(layer.x_step)
    at = torch.tensor([[0, 17, 255], [1, 16, 100], [15, 240, 37]])
    sums = sums_of(layer, rows_at(layer, x, at)).view(3, 3, -1)
    low, high = 0, 15
    levels = torch.clamp(torch.floor(x / layer.x_step + 0.5), low, high)
    everywhere = layer.project_levels(levels).flatten(2).permute(0, 2, 1)  # (B, P, k)
    for image in range(3):
        assert torch.equal(sums[image], everywhere[image, at[image]])


def test_streams_are_the_joined_layers(trained):
    """Tensors that are added share a scale: the groups that the geometry calls joined."""
    groups = {
        name: sorted(g) for g in streams(chain(convert(trained, batch_norm="fold"))) for name in g
    }
    for layer in networks.layers("tiny"):
        if layer.joined:
            same = [k.name for k in networks.layers("tiny") if k.joined == layer.joined]
            assert groups[layer.name] == sorted(same)
        else:
            assert groups[layer.name] == [layer.name]


def test_scales_leave_headroom_and_shifts_are_powers_of_two(trained, images):
    net = convert(trained, batch_norm="fold")
    x = torch.from_numpy(images.images).float() / 255
    scales = calibrate(net, chain(net), x)
    largest = {}
    observe(net, chain(net), x, lambda k, x, z: largest.update({k.name: float(z.abs().max())}))
    for name, top in largest.items():
        assert 2 * top <= 32767 * scales[name].scale * (1 + 1e-6), name
        assert scales[name].step == scales[name].scale * 2 ** scales[name].shift
    assert scales["stem"].scale == scales["blocks.0.conv2"].scale


def test_from_a_training_folder_to_a_checkpoint_folder(images, tmp_path):
    source = tmp_path / "images.npz"
    data.save(source, {"train": images, "test": images})
    recipe = Recipe(model="tiny", resolutions=(32,), batch=32, bfloat16=False)
    train(recipe, data.load(f"npz:{source}", "train"), tmp_path / "run")
    seen = []
    path = distill.distill(
        tmp_path / "run",
        f"npz:{source}",
        tmp_path / "out",
        images=60,
        progress=lambda done, of: seen.append((done, of)),
    )
    made = store.load(path)
    assert seen[-1] == (60, 60)
    assert made.manifest.training["recipe"]["model"] == "tiny"
    assert made.manifest.distillation["images"] == 60
    assert made.manifest.classes == ("a", "b", "c")
    with pytest.raises(InputError, match="holds files already"):
        distill.distill(tmp_path / "run", f"npz:{source}", tmp_path / "out", images=60)


def test_bad_input_is_one_sentence(images, tmp_path):
    with pytest.raises(InputError, match="images must be between 1 and 10000, not 0"):
        distill.distill(tmp_path, "npz:x", tmp_path / "out", images=0)
    with pytest.raises(InputError, match=r"state\.pt: cannot be read"):
        distill.distill(tmp_path, "npz:x", tmp_path / "out")
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(InputError, match="is no state of a training"):
        distill.distill(tmp_path, "npz:x", tmp_path / "out")
    (tmp_path / "state.pt").unlink()
    two = images.take(np.arange(10))
    two = data.Images(two.name, two.images, two.labels % 2, ("a", "b"))
    data.save(tmp_path / "two.npz", {"train": two})
    recipe = Recipe(model="tiny", resolutions=(32,), batch=32, bfloat16=False)
    train(recipe, images, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "record.json").read_text())["steps"] == 3
    with pytest.raises(InputError, match=r"has 2 classes, the network of .* has 3"):
        distill.distill(tmp_path / "run", f"npz:{tmp_path}/two.npz", tmp_path / "out")


def test_what_follows_a_layer():
    """Later layers add the sum where a batch-norm follows it, and else what they read."""
    v, residual = torch.tensor([[[[-3.0]], [[1.0]]]]), torch.tensor([[[[2.0]], [[5.0]]]])
    both = Link("one", None, "x", "before", True).finish(v, residual)
    assert [each.flatten().tolist() for each in both] == [[0.0, 6.0]] * 2
    both = Link("one", None, "x", "before", False).finish(v, residual)
    assert [each.flatten().tolist() for each in both] == [[-1.0, 6.0]] * 2
    norm = torch.nn.BatchNorm2d(2, eps=0).eval()
    norm.running_mean.fill_(2)
    added, read = Link("one", None, "x", "before", True, norm).finish(v, residual)
    assert added.flatten().tolist() == [-1.0, 6.0]
    assert read.flatten().tolist() == [0.0, 4.0]


def test_combined_moments_weigh_both_alike():
    """Ten samples of z = 1 and two of z = 4 give a mean of 2.5."""
    ones, fours = Moments(), Moments()
    ones.add(np.zeros((10, 1), np.float32), np.full((10, 1), 1, np.float32))
    fours.add(np.zeros((2, 1), np.float32), np.full((2, 1), 4, np.float32))
    both = fours.combined(ones)
    assert both.weight == 4
    assert both.z / both.weight == pytest.approx(2.5)
    assert both.zz / both.weight == pytest.approx(8.5)
