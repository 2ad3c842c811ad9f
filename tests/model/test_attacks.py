"""Attacks: bounds, seeds, the gradients they see, the losses they raise."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sinai.common.errors import InputError, MissingError
from sinai.model import libraries, nets
from sinai.model.attacks import ATTACKS, Settings, attack
from sinai.model.baselines import defend
from sinai.model.gradients import GRADIENTS, NoiseDistance, view
from sinai.model.pool import Pool
from sinai.model.sinai import layers_of, set_scheme

FEW = Settings(
    steps=2,
    mifgsm_steps=2,
    cw_c=1.0,
    cw_steps=4,
    autoattack_steps=2,
    queries=4,
    eot=2,
    unbounded_steps=2,
)


@pytest.fixture
def net(checkpoint):
    return set_scheme(checkpoint.floating("patch"), "unstructured:0.5").eval()


@pytest.fixture
def batch(images):
    chosen = torch.from_numpy(images.images[:6]).float() / 255
    return chosen, torch.from_numpy(images.labels[:6])


CASES = [(name, gradient) for name in ATTACKS for gradient in ATTACKS[name].gradients or ("",)]


@pytest.mark.parametrize(("name", "gradient"), CASES)
def test_images_stay_in_range_and_bound_and_follow_from_the_seed(net, batch, name, gradient):
    x, y = batch
    chosen = {"gradient": gradient} if gradient else {}
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    found = attack(net, x, y, name, settings=FEW, seed=3, **chosen)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert found.min() >= 0
    assert found.max() <= 1
    if ATTACKS[name].bounded:
        assert (found - x).abs().max() <= FEW.eps + 1e-6
    assert torch.equal(found, attack(net, x, y, name, settings=FEW, seed=3, **chosen))
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mifgsm", "eot", "adaptive", "bpda", "transfer"])
def test_attacks_by_gradient_move_the_images(net, batch, name):
    x, y = batch
    found = attack(net, x, y, name, gradient=ATTACKS[name].gradients[0], settings=FEW)
    assert (found - x).abs().amax() > FEW.eps / 2


def test_fgsm_is_one_signed_step_of_eps(net, batch):
    x, y = batch
    point = x.clone().requires_grad_()
    F.cross_entropy(view(net, "straight-through")(point), y, reduction="sum").backward()
    wanted = (x + FEW.eps * point.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(attack(net, x, y, "fgsm", settings=FEW), wanted, atol=1e-6, rtol=0)


def test_random_sampling_keeps_the_first_image_that_fools_and_no_other(net, batch):
    """A network that takes any image but the one it knows for another class."""

    class Knows(torch.nn.Module):
        def forward(self, x):
            same = (x == batch[0][0]).flatten(1).all(1)
            return torch.stack([same.float(), 1 - same.float()], 1)

    x, y = batch[0][:2], torch.tensor([0, 1])
    found = attack(Knows(), x, y, "random", settings=FEW)
    assert not torch.equal(found[0], x[0])
    assert (found[0] - x[0]).abs().max() > FEW.eps / 2
    assert torch.equal(found[1], x[1]), "any drawn image is right, so none is kept"


def test_unbounded_goes_beyond_eps(net, batch):
    x, y = batch
    assert (attack(net, x, y, "unbounded", settings=FEW) - x).abs().max() > 1.5 * FEW.eps


@pytest.mark.parametrize("gradient", [g for g in GRADIENTS if g != "dense"])
def test_views_return_the_outputs_of_the_network(net, batch, gradient):
    torch.testing.assert_close(view(net, gradient)(batch[0]), net(batch[0]))


def test_the_dense_view_is_the_dense_network(net, batch):
    found = view(net, "dense")(batch[0])
    assert not torch.allclose(found, net(batch[0]))
    torch.testing.assert_close(found, set_scheme(net, "dense")(batch[0]))


def _input_gradient(net, x):
    point = x.clone().requires_grad_()
    net(point).square().sum().backward()
    return point.grad


def test_gradients_of_views_differ_where_they_should(net, batch):
    found = [_input_gradient(view(net, name), batch[0]) for name in GRADIENTS]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert not torch.allclose(one, other)


def test_as_in_paper_noisy_neurons_carry_no_gradient(net, batch):
    """All noise: the first layer's outputs no longer depend on the image, to the gradient."""
    set_scheme(net, "unstructured:1.0")
    assert _input_gradient(view(net, "as-in-paper"), batch[0]).abs().max() == 0
    assert _input_gradient(view(net, "straight-through"), batch[0]).abs().max() > 0


def test_dense_path_has_the_gradient_of_exact_outputs(net, images):
    """Of one layer, by hand: z' forward, d relu(z) backward."""
    layer = next(iter(layers_of(net)))
    x = torch.from_numpy(images.images[:2]).float() / 255
    path = view(layer, "dense-path")
    exact = x.clone().requires_grad_()
    z = layer.exact(exact)
    (torch.relu(z) if layer.switches.activation != "none" else z).sum().backward()
    point = x.clone().requires_grad_()
    out = path(point)
    out.sum().backward()
    torch.testing.assert_close(out, layer(x))
    torch.testing.assert_close(point.grad, exact.grad)


def test_noise_distance_is_the_mean_square_of_the_noise(net, batch):
    seen = []
    for layer in layers_of(net):
        layer.register_forward_hook(
            lambda module, given, out: seen.append((module.exact(given[0]), out))
        )
    distance = NoiseDistance(net)
    net(batch[0])
    per_layer = []
    for layer, (exact, out) in zip(layers_of(net), seen, strict=True):
        if layer.switches.activation != "none":
            exact, out = torch.relu(exact), torch.relu(out)
        per_layer.append((out - exact).square().flatten(1).mean(1))
    torch.testing.assert_close(distance.take(), torch.stack(per_layer).mean(0))
    assert distance.seen == []


def test_the_adaptive_attack_with_weight_0_is_pgd(net, batch):
    x, y = batch
    plain = Settings(steps=2, noise_weight=0.0)
    pgd = attack(net, x, y, "pgd", settings=plain, seed=1)
    assert torch.equal(attack(net, x, y, "adaptive", settings=plain, seed=1), pgd)
    weighted = Settings(steps=2, noise_weight=1e4)
    assert not torch.equal(attack(net, x, y, "adaptive", settings=weighted, seed=1), pgd)


def test_eot_calls_the_network_for_every_draw(net, batch):
    calls = []
    pool = Pool(net, 2, seed=1)
    x, y = batch

    class Counting(torch.nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return pool(x)

    from sinai.model.attacks import _eot

    _eot(Counting().eval(), x, y, FEW, 0)
    assert len(calls) >= FEW.steps * FEW.eot


def test_autoattack_averages_the_draws_of_a_randomised_network(batch):
    x, y = batch
    net = defend(nets.build("tiny", 3), "rpf", seed=0).eval()
    y = torch.full_like(y, int(net(x[:1]).argmax()))
    noise, passes = net.stem.parametrizations.weight[0], []
    noise.register_forward_hook(lambda *given: passes.append(torch.is_grad_enabled()))
    found = []
    for draws in (1, 6):
        passes.clear()
        attack(net, x, y, "autoattack", settings=replace(FEW, eot=draws))
        found.append(sum(passes))
    assert 0 < 3 * found[0] < found[1]


def test_no_images_are_no_images(net, batch):
    x, y = batch
    assert attack(net, x[:0], y[:0], "pgd").shape == x[:0].shape


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "magic"}, "attack must be one of fgsm"),
        ({"gradient": "uphill"}, "gradient must be one of straight-through"),
        ({"images": torch.full((1, 3, 32, 32), 2.0)}, r"images must be in \[0, 1\]"),
    ],
)
def test_bad_arguments_are_named(net, changes, words):
    given = {"images": torch.zeros(1, 3, 32, 32), "name": "pgd", "gradient": "straight-through"}
    given |= changes
    with pytest.raises(InputError, match=words):
        attack(net, given.pop("images"), torch.zeros(1, dtype=torch.long), **given)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("eps", 0.0, "eps must be above 0"),
        ("steps", 0, "steps must be at least 1"),
        ("noise_weight", -1.0, "noise_weight must be a number of at least 0"),
    ],
)
def test_bad_settings_are_named(field, value, words):
    with pytest.raises(InputError, match=words):
        Settings(**{field: value})


@pytest.mark.parametrize("package", ["foolbox", "pyautoattack"])
def test_a_missing_library_names_the_extra(monkeypatch, package):
    def none(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(libraries, "import_module", none)
    load = libraries.foolbox if package == "foolbox" else libraries.autoattack
    with pytest.raises(MissingError, match=rf"{package}.*pip install 'sinai\[model\]'"):
        load()
