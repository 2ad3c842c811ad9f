"""Distillation by gradient descent: lower error, the same result however it is cut up."""

import copy

import pytest
import torch
from torch import nn

from sinai.common.errors import InputError
from sinai.model.layerwise import Distillation, distill_layers, gather_layers
from sinai.model.sinai import convert, layers_of
from sinai.model.steps import set_steps
from sinai.model.weights import read

RECIPE = Distillation(epochs=3, batch=16)


@pytest.fixture
def pixels(images):
    return torch.from_numpy(images.images)


@pytest.fixture
def net(trained):
    return convert(trained, seed=7)


def weights(net):
    return {k.name: (k.noise_weight.detach(), k.noise_bias.detach()) for k in layers_of(net)}


def same(a, b):
    return all(torch.equal(x, y) for name in a for x, y in zip(a[name], b[name], strict=True))


def start_errors(net, pixels):
    x, found = pixels.float() / 255, {}
    handles = [
        k.register_forward_hook(
            lambda k, args, z: found.update(
                {k.name: float((k.approximate(args[0]) - z).square().sum() / z.square().sum())}
            )
        )
        for k in layers_of(net)
    ]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(
    "changes",
    [{}, {"rounding": "after"}, {"optimizer": "adamw", "lr": 0.02}, {"projection": "tap"}],
    ids=str,
)
def test_errors_of_every_layer_fall(trained, pixels, tmp_path, changes):
    changes = dict(changes)
    projection = changes.pop("projection", "patch")
    net = set_steps(convert(trained, seed=7, projection=projection), pixels.float() / 255)
    exact = [k.weight.clone() for k in layers_of(net)]
    start = start_errors(net, pixels)
    found = distill_layers(net, pixels, tmp_path, Distillation(epochs=6, batch=16, **changes))
    assert found == pytest.approx(start_errors(net, pixels), rel=1e-4)
    for name in start:
        assert found[name] < 0.7 * start[name], name
    assert all(torch.equal(k.weight, w) for k, w in zip(layers_of(net), exact, strict=True))


def test_one_layer_comes_near_the_least_squares_solution(tmp_path):
    """Without roundings the problem is quadratic: the best error is that of a regression."""
    torch.manual_seed(0)
    net = convert(nn.Sequential(nn.Conv2d(3, 8, 3)), bits=32, input_bits=32, k="fraction:0.5:1")
    pixels = torch.randint(0, 256, (64, 3, 6, 6), dtype=torch.uint8)
    found = distill_layers(net, pixels, tmp_path, Distillation(epochs=40, batch=16, lr=1.0))
    with torch.no_grad():
        x = pixels.float() / 255
        p = net[0].project(x)[0].permute(0, 2, 3, 1).flatten(0, 2)
        p = torch.cat([p, torch.ones(len(p), 1)], 1).double()
        z = net[0].exact(x).permute(0, 2, 3, 1).flatten(0, 2).double()
        best = (p @ torch.linalg.lstsq(p, z).solution - z).square().sum() / z.square().sum()
    assert float(best) <= found["0"] < 1.1 * float(best)


def test_rounding_during_or_after(tmp_path):
    """At 2 bits descent without roundings reaches a lower loss, and leaves rounded weights."""
    torch.manual_seed(0)
    net = convert(nn.Sequential(nn.Conv2d(3, 8, 3)), bits=2)
    pixels = torch.randint(0, 256, (64, 3, 6, 6), dtype=torch.uint8)
    losses = {}
    for rounding in ("during", "after"):
        recipe = Distillation(epochs=5, batch=32, rounding=rounding)
        made = copy.deepcopy(net)
        distill_layers(
            made,
            pixels,
            tmp_path / rounding,
            recipe,
            progress=lambda step, steps, loss, how=rounding: losses.update({how: loss}),
        )
        weight, _ = made[0].noise(torch.tensor(1.0))
        assert (weight / made[0].noise_scale[:, None]).unique().tolist() == [-1, 0, 1]
    assert losses["after"] < 0.9 * losses["during"]


class Stop(Exception):
    """Planted in the middle of a run."""


def test_an_interrupted_run_goes_on_the_same(net, pixels, tmp_path):
    other, fresh = copy.deepcopy(net), copy.deepcopy(net)
    distill_layers(net, pixels, tmp_path / "whole", RECIPE)

    def stop(step, steps, loss):
        if step == 8:
            raise Stop

    with pytest.raises(Stop):
        distill_layers(other, pixels, tmp_path / "cut", RECIPE, progress=stop, save_every_s=0)
    with pytest.raises(InputError, match=r"is at step 8 of 18; run its share to the end"):
        gather_layers(copy.deepcopy(other), tmp_path / "cut")
    steps = []
    distill_layers(
        fresh, pixels, tmp_path / "cut", RECIPE, progress=lambda step, *_: steps.append(step)
    )
    assert steps[0] == 9
    assert same(weights(fresh), weights(net))


def test_another_network_or_other_images_are_not_taken_up(net, pixels, tmp_path):
    other = copy.deepcopy(net)
    other.stem.weight.data[0, 0, 0, 0] += 1e-6
    distill_layers(copy.deepcopy(net), pixels, tmp_path, RECIPE)
    with pytest.raises(InputError, match=r"another recipe \(network_digest not the same\)"):
        distill_layers(other, pixels, tmp_path, RECIPE)
    with pytest.raises(InputError, match=r"another recipe \(images_digest not the same\)"):
        distill_layers(copy.deepcopy(net), pixels ^ 1, tmp_path, RECIPE)


def test_damaged_and_earlier_states_are_named(net, pixels, tmp_path):
    file = tmp_path / "layers-0-of-1.pt"
    distill_layers(copy.deepcopy(net), pixels, tmp_path, RECIPE)
    state = read(file, "distillation")
    empty = {name: {"state": {}, "param_groups": []} for name in state["optimizers"]}
    earlier = {"recipe": state["identity"], "step": 18, "steps": 18, "layers": state["layers"]}
    for made, words in (
        (state | {"optimizers": None}, r"is damaged \(TypeError\); remove it"),
        (state | {"optimizers": empty}, r"is damaged \(ValueError\); remove it"),
        (state | {"rates": {}}, r"is damaged \(KeyError\); remove it"),
        (state | {"step": "18"}, r"is damaged \(ValueError\); remove it"),
        (earlier, "was written by an earlier version of sinai; choose another folder"),
        ({"step": 3}, "is no state of a distillation"),
    ):
        torch.save(made, file)
        with pytest.raises(InputError, match=rf"layers-0-of-1\.pt: {words}"):
            distill_layers(copy.deepcopy(net), pixels, tmp_path, RECIPE)
    for made, words in (
        (state | {"step": "18"}, r"is damaged \(ValueError\); remove it"),
        (state | {"layers": 1}, r"is damaged \(TypeError\); remove it"),
        (state | {"layers": dict.fromkeys(state["layers"], 1)}, "does not fit layer stem"),
        (earlier, "was written by an earlier version of sinai"),
        ({"step": 3}, "is no state of a distillation"),
    ):
        torch.save(made, file)
        with pytest.raises(InputError, match=words):
            gather_layers(copy.deepcopy(net), tmp_path)


def test_a_loss_that_is_no_number_ends_it(net, pixels, tmp_path):
    wild = Distillation(epochs=3, batch=16, lr=1e38)
    with pytest.raises(InputError, match=r"the loss is (nan|inf) with lr 1e\+38; give a smaller"):
        distill_layers(copy.deepcopy(net), pixels, tmp_path, wild, save_every_s=0)
    distill_layers(net, pixels, tmp_path, RECIPE)  # no state is in the way


def test_shares_give_what_one_process_gives(net, pixels, tmp_path):
    first, second, third = (copy.deepcopy(net) for _ in range(3))
    distill_layers(net, pixels, tmp_path / "whole", RECIPE)
    names = [*distill_layers(first, pixels, tmp_path / "parts", RECIPE, share=(0, 2))]
    with pytest.raises(InputError, match=r"layer blocks\.0\.conv1 is missing"):
        gather_layers(third, tmp_path / "parts")
    names += distill_layers(second, pixels, tmp_path / "parts", RECIPE, share=(1, 2))
    assert sorted(names) == sorted(k.name for k in layers_of(net))
    assert same(weights(gather_layers(third, tmp_path / "parts")), weights(net))


def test_refusals(net, pixels, tmp_path):
    for changes, message in (
        ({"epochs": 0}, "epochs and batch must be at least 1"),
        ({"optimizer": "adam"}, "optimizer must be sgd or adamw, not 'adam'"),
        ({"rounding": "never"}, "rounding must be during or after"),
        ({"lr": 0}, "lr must be above 0"),
    ):
        with pytest.raises(InputError, match=message):
            Distillation(**changes)
    with pytest.raises(InputError, match=r"share must be I of N .* not 2 of 2"):
        distill_layers(net, pixels, tmp_path, RECIPE, share=(2, 2))
    with pytest.raises(InputError, match="batch must be at most the 96 images, not 128"):
        distill_layers(net, pixels, tmp_path)
    one = Distillation(epochs=1, batch=48)
    distill_layers(net, pixels, tmp_path, one)
    with pytest.raises(InputError, match="holds the state of another recipe"):
        distill_layers(net, pixels, tmp_path, RECIPE)
    with pytest.raises(InputError, match=r"does not fit layer stem \(noise_weight\)"):
        gather_layers(convert(nn.ModuleDict({"stem": nn.Conv2d(5, 4, 1)})), tmp_path)
