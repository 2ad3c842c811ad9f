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
from sinai.model.closed_form import kept_images
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


@pytest.mark.parametrize("name", ["tiny", "tiny_preact", "tiny_wrn", "tiny_resnet50"])
def test_streams_are_the_joined_layers(name, normed):
    """Tensors that are added share a scale: the groups that the geometry calls joined."""
    links = chain(convert(normed(name), batch_norm="fold"))
    groups = {name: sorted(g) for g in streams(links) for name in g}
    geometry = networks.layers(name)
    assert [link.name for link in links] == [layer.name for layer in geometry]
    assert [bool(link.residual) for link in links] == [layer.residual for layer in geometry]
    for layer in geometry:
        if layer.joined:
            same = [k.name for k in geometry if k.joined == layer.joined]
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


def test_a_sum_and_what_a_batch_norm_makes_of_it_have_scales_of_their_own(normed, images):
    net = convert(normed("tiny_preact"), batch_norm="fold")
    scales = calibrate(net, chain(net), torch.from_numpy(images.images).float() / 255)
    first, second = scales["stem"], scales["blocks.0.conv2"]
    assert first.sum_scale == second.sum_scale
    assert first.scale != first.sum_scale
    assert scales["blocks.0.conv1"].scale == scales["blocks.0.conv1"].sum_scale


class _Stopped(Exception):
    pass


def test_an_interrupted_distillation_goes_on(normed, images, tmp_path):
    """Stopped in both passes, it ends in the same numbers, without doing anything twice."""
    net, state = normed("tiny_preact"), tmp_path / "state"
    given = {"images": 60, "noise_images": 8, "device": "cpu", "training": {}}
    whole, calls = [], []
    wanted = distill.distill_net(
        net, "tiny_preact", images, progress=lambda *now: whole.append(now), **given
    )

    def stop(*now):
        calls.append(now)
        if len(calls) in (1, 4):
            raise _Stopped

    def again():
        return distill.distill_net(
            net, "tiny_preact", images, state=state, save_every_s=0, progress=stop, **given
        )

    for _ in range(2):
        with pytest.raises(_Stopped):
            again()
    assert again().digest == wanted.digest
    assert calls == whole
    with pytest.raises(InputError, match="holds the state of another distillation"):
        distill.distill_net(net, "tiny_preact", images, seed=1, state=state, **given)
    torch.save(torch.load(state, weights_only=True) | {"scales": [1]}, state)
    with pytest.raises(InputError, match=r"state: is damaged \(AttributeError\); remove it"):
        again()


def test_no_more_images_are_kept_than_fit():
    """Five paths of three tensors of 160 x 32 x 32 numbers: 546 images in 5 GiB."""
    assert kept_images(networks.layers("wrn34_10"), 1000) == 546
    assert kept_images(networks.layers("resnet18"), 1000) == 1000


def test_weights_of_eight_bits(trained, checkpoint, images):
    """The step of a channel grows to 127 steps of its largest weight; the rest is the same."""
    made = distill.distill_net(trained, "tiny", images, seed=7, weight_bits=8, training={})
    assert made.manifest.weight_bits == 8
    for few, many in zip(made.integer().layers, checkpoint.integer().layers, strict=True):
        assert few.weight.dtype == np.int16
        assert 100 < np.abs(few.weight).max() <= 127
        values, wanted = (
            spec.weight * (spec.multiplier * 2.0**-spec.shift)[:, None] for spec in (few, many)
        )
        steps = few.multiplier * 2.0**-few.shift
        assert np.all(np.abs(values - wanted) <= 0.51 * steps[:, None])
        assert np.array_equal(few.noise_weight, many.noise_weight)


def test_from_a_training_folder_to_a_checkpoint_folder(images, tmp_path):
    source = tmp_path / "images.npz"
    data.save(source, {"train": images, "test": images})
    recipe = Recipe(model="tiny", resolutions=(32,), batch=32, bfloat16=False)
    train(recipe, data.load(f"npz:{source}", "train"), tmp_path / "run")
    halve(tmp_path / "run" / "state.pt")
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


def halve(file):
    """Keep the weights of a training in bfloat16."""
    state = torch.load(file, weights_only=True)
    state["net"] = {
        k: v.bfloat16() if v.is_floating_point() else v for k, v in state["net"].items()
    }
    torch.save(state, file)


def test_bad_input_is_one_sentence(images, tmp_path):
    with pytest.raises(InputError, match="images must be between 1 and 10000, not 0"):
        distill.distill(tmp_path, "npz:x", tmp_path / "out", images=0)
    with pytest.raises(InputError, match=r"holds neither state\.pt nor net\.pt"):
        distill.distill(tmp_path, "npz:x", tmp_path / "out")
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(InputError, match=r"state\.pt: is no network \(UnpicklingError\)"):
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
