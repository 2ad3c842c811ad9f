"""Noise-injection baselines: what the noise is, what is learned, what is kept in a file."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sinai.common.errors import InputError
from sinai.model import nets
from sinai.model.baselines import (
    DEFENCES,
    FeatureNoise,
    RandomFilters,
    WeightNoise,
    defend,
    penalty,
    randomised,
)
from sinai.model.fold import fold_batch_norm
from sinai.model.sinai import convert

NOISY = ("pni", "l2p", "rpf")
TINY = ("tiny", "tiny_preact", "tiny_wrn", "tiny_resnet50", "tiny_vit")


def made(model, name, seed=0):
    torch.manual_seed(1)
    return defend(nets.build(model), name, seed=seed)


def images(count=2):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("model", TINY)
def test_every_pass_draws_in_eval_too_and_follows_from_the_seed(model, name):
    net = made(model, name).eval()
    x = images()
    torch.manual_seed(5)
    with torch.no_grad():
        first, second = net(x), net(x)
        torch.manual_seed(5)
        again = net(x)
    assert torch.equal(first, again)
    assert not torch.allclose(first, second)
    assert randomised(net)


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("model", TINY)
def test_state_goes_into_a_network_built_and_defended_anew(model, name):
    net, file = made(model, name), io.BytesIO()
    for value in net.parameters():
        value.data.add_(0.1)
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = made(model, name, seed=9)
    other.load_state_dict(torch.load(file, weights_only=True))
    results = []
    for one in (net, other):
        torch.manual_seed(3)
        with torch.no_grad():
            results.append(one.eval()(images()))
    assert torch.equal(*results)


@pytest.mark.parametrize("model", nets.MODELS)
@pytest.mark.parametrize("name", DEFENCES)
def test_every_network_takes_every_defence(model, name):
    with torch.device("meta"):
        net = nets.build(model)
    noise = {"none": type(None), "pni": WeightNoise, "l2p": FeatureNoise, "rpf": RandomFilters}
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    wanted = {"none": 0, "pni": len(layers), "l2p": 1 + len(net.blocks), "rpf": 1}[name]
    assert defend(net, name, seed=0) is net
    assert sum(isinstance(m, noise[name]) for m in net.modules()) == wanted


def test_no_defence_is_the_network_itself():
    net = nets.build("tiny").eval()
    before = net(images())
    assert torch.equal(defend(net, "none", seed=0)(images()), before)
    assert not randomised(net)
    assert penalty(net) == 0


def test_defending_draws_nothing_from_the_global_generator():
    for name in DEFENCES:
        net = nets.build("tiny")
        state = torch.random.get_rng_state()
        defend(net, name, seed=0)
        assert torch.equal(torch.random.get_rng_state(), state)


def test_pni_weights_are_w_plus_alpha_std_normal():
    """Of one layer, by many draws: mean w, deviation alpha * std(w), of one size everywhere."""
    layer = nn.Sequential(nn.Conv2d(4, 16, 3))
    weight = layer[0].weight.detach().clone()
    defend(layer, "pni", seed=0)
    alpha = layer[0].parametrizations.weight[0].alpha
    assert alpha.item() == 0.25
    with torch.no_grad():
        alpha.fill_(0.5)
        draws = torch.stack([layer[0].weight for _ in range(500)])
    wanted = 0.5 * weight.std().item()
    torch.testing.assert_close(draws.mean(0), weight, atol=5 * wanted / 500**0.5, rtol=0)
    assert draws.std(0).mean().item() == pytest.approx(wanted, rel=0.01)
    assert draws.std(0).max() < 1.2 * wanted


def test_pni_gradients_by_hand():
    """Of sum(w + alpha * eta): 1 to every weight, the sum of eta to alpha."""
    layer = defend(nn.Sequential(nn.Linear(30, 20)), "pni", seed=0)[0]
    noise, original = layer.parametrizations.weight[0], layer.parametrizations.weight.original
    total = layer.weight.sum()
    total.backward()
    assert torch.equal(original.grad, torch.ones(20, 30))
    eta = (total - original.sum()) / noise.alpha
    torch.testing.assert_close(noise.alpha.grad, eta.detach(), atol=1e-4, rtol=1e-4)


def test_l2p_noise_has_the_deviation_of_its_channel_and_is_each_images_own():
    noise = FeatureNoise(torch.ones(3)).eval()
    with torch.no_grad():
        noise.sigma.copy_(torch.tensor([0.5, 2.0, 0.001]))  # the last one below the least
        x = torch.randn(100, 3, 16, 16)
        added = noise(x) - x
    deviations = added.transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(deviations, torch.tensor([0.5, 2.0, 0.01]), atol=0, rtol=0.03)
    assert added.mean().abs() < 0.05
    assert not torch.equal(added[0], added[1])
    tokens = torch.zeros(50, 40, 3)
    deviations = noise(tokens).flatten(0, 1).std(0)
    torch.testing.assert_close(deviations, torch.tensor([0.5, 2.0, 0.01]), atol=0, rtol=0.08)


def test_l2p_sigma_is_raised_before_a_step_of_training_but_not_in_eval():
    noise = FeatureNoise(torch.ones(2))
    noise.sigma.data.copy_(torch.tensor([-1.0, 0.3]))
    noise.eval()(torch.zeros(1, 2, 4, 4))
    assert noise.sigma.tolist() == pytest.approx([-1.0, 0.3])
    x = torch.zeros(1, 2, 4, 4)
    loss = noise.train()(x).square().sum() - noise.growth() + noise(x).square().sum()
    loss.backward()  # a second pass must not spoil the gradient of the first
    assert noise.sigma.tolist() == pytest.approx([0.01, 0.3])
    assert noise.sigma.grad.all()


def test_l2p_sigma_moves_as_the_mean_of_sigmas_of_its_elements_would():
    noise, x = FeatureNoise(torch.ones(2)), torch.randn(5, 2, 3, 4)
    torch.manual_seed(7)
    noise(x).square().sum().backward()
    each = torch.full((2, 3, 4), 0.25, requires_grad=True)
    torch.manual_seed(7)
    (x + torch.randn_like(x) * each).square().sum().backward()
    torch.testing.assert_close(noise.sigma.grad, each.grad.mean((1, 2)))


def test_l2p_noise_is_added_to_the_sum_of_a_block_before_its_relu():
    """Without noise a block gives relu(a + b); with noise n on bn2 it gives relu(a + n + b)."""
    net = nets.build("tiny").eval()
    block, x = net.blocks[1], torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        total = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))) + block.shortcut(x)
        defend(net, "l2p", seed=0)
        torch.manual_seed(4)
        found = block(x)
        torch.manual_seed(4)
        wanted = F.relu(total + 0.25 * torch.randn_like(total))
    torch.testing.assert_close(found, wanted)


def test_the_regulariser_of_l2p_by_hand():
    """-1e-4 / H(epoch) * sum over elements of sqrt(sigma); its gradient makes sigma grow."""
    net = made("tiny", "l2p")
    net(images())
    stem, first, second = [m for m in net.modules() if isinstance(m, FeatureNoise)]
    assert (stem.elements, first.elements, second.elements) == (1024, 1024, 256)
    stem.sigma.data.fill_(0.04)
    total = 8 * 1024 * 0.2 + 8 * 1024 * 0.5 + 16 * 256 * 0.5
    assert penalty(net).item() == pytest.approx(-1e-4 * total)
    assert penalty(net, epoch=3).item() == pytest.approx(-1e-4 / (1 + 1 / 2 + 1 / 3) * total)
    penalty(net).backward()
    torch.testing.assert_close(stem.sigma.grad, torch.full((8,), -1e-4 / (2 * 0.2)))
    assert all(penalty(made("tiny", name)) == 0 for name in ("pni", "rpf"))
    with pytest.raises(InputError, match="epoch must be at least 1, not 0"):
        penalty(net, epoch=0)


@pytest.mark.parametrize(("model", "count", "kernel"), [("tiny", 6, 3), ("tiny_resnet50", 6, 7)])
def test_rpf_filters_are_normal_of_deviation_1_over_k(model, count, kernel):
    stem = made(model, "rpf").stem
    with torch.no_grad():
        draws = torch.stack([stem.weight for _ in range(400)])
    assert draws.shape[1:] == (8, 3, kernel, kernel)
    trained, drawn = draws[:, : 8 - count], draws[:, 8 - count :]
    assert (trained == trained[0]).all()
    assert drawn.std().item() == pytest.approx(1 / kernel, rel=0.02)
    assert drawn.mean().abs().item() < 0.01
    torch.testing.assert_close(
        trained[0].flatten(1).std(1), torch.full((2,), 1 / kernel), atol=1e-4, rtol=1e-3
    )


def test_rpf_has_48_of_64_filters_random_and_they_are_no_parameters():
    net = made("preactresnet18", "rpf")
    assert net.stem.parametrizations.weight[0].count == 48
    shapes = {name: tuple(p.shape) for name, p in net.stem.named_parameters()}
    assert shapes == {"parametrizations.weight.original": (16, 3, 3, 3)}
    assert list(net.stem.state_dict()) == list(shapes)


def test_gradients_reach_what_is_learned_and_the_image():
    for name in NOISY:
        net, x = made("tiny", name), images().requires_grad_()
        net(x).square().sum().backward()
        missing = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        assert not missing
        assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NOISY)
def test_a_copy_is_a_network_of_its_own(name):
    net = made("tiny", name).eval()
    other = copy.deepcopy(net)
    for value in net.parameters():
        value.data.zero_()
    torch.manual_seed(0)
    assert other(images()).std() > 0
    assert randomised(other)


def test_trained_filters_of_rpf_follow_from_the_seed():
    original = [
        made("tiny", "rpf", seed).stem.parametrizations.weight.original for seed in (1, 1, 2)
    ]
    assert torch.equal(original[0], original[1])
    assert not torch.equal(original[0], original[2])


@pytest.mark.parametrize("name", ["pni", "rpf"])
def test_batch_norms_are_not_folded_into_weights_that_are_drawn(name):
    net = made("tiny", name).eval()
    fold_batch_norm(net, strict=False)
    assert isinstance(net.bn, nn.BatchNorm2d)
    with pytest.raises(InputError, match="does not follow a convolution"):
        fold_batch_norm(net)


def test_folding_keeps_the_noise_of_l2p(trained):
    net = defend(trained, "l2p", seed=0).eval()
    x, results = images(), []
    for _ in range(2):
        torch.manual_seed(6)
        with torch.no_grad():
            results.append(net(x))
        fold_batch_norm(net)
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("net", "name", "words"),
    [
        (lambda: nets.build("tiny"), "magic", "defence must be one of none, pni, l2p, rpf, not 'm"),
        (lambda: made("tiny", "pni"), "rpf", "ResNet has a defence already"),
        (lambda: convert(nets.build("tiny")), "l2p", "ResNet is converted already"),
        (lambda: nn.Sequential(nn.ReLU()), "pni", "Sequential has no Conv2d or Linear layer"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), "rpf", "has no convolution of two filters"),
        (lambda: nn.Sequential(nn.Conv2d(1, 1, 3)), "rpf", "has no convolution of two filters"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 8, 3)),
            "l2p",
            "is none of sinai.model.nets",
        ),
    ],
)
def test_errors_name_what_is_wrong(net, name, words):
    with pytest.raises(InputError, match=words):
        defend(net(), name, seed=0)
