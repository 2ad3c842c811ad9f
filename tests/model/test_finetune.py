"""Algorithm 1 step by step by hand, resumption, and files of weights."""

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sinai.common.errors import InputError
from sinai.model import nets
from sinai.model.finetune import FineTuning, finetune, mse
from sinai.model.pool import Pool
from sinai.model.sinai import convert, layers_of, set_scheme, unconvert
from sinai.model.steps import set_steps, set_thresholds
from sinai.model.weights import load_converted, read, save_converted

ONE = FineTuning(schemes=("structured:4:8",), batch=96, lr=0.05)


@pytest.fixture
def pixels(images):
    return torch.from_numpy(images.images)


@pytest.fixture
def labels(images):
    return torch.from_numpy(images.labels)


@pytest.fixture
def net(trained):
    return convert(trained, seed=7)


def test_one_step_by_hand(pixels, labels, tmp_path):
    """One layer, one step: w - lr * gradient of (cross-entropy of z' + 0.1 L_MSE)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.Flatten(), nn.Linear(8 * 7 * 7, 3))
    net = convert(net, "structured:4:8")
    by_hand = copy.deepcopy(net)
    finetune(net, pixels, labels, tmp_path, ONE)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    x, y = pixels[order].float() / 255, labels[order]
    z, noise = by_hand[0].exact(x), by_hand[0].approximate(x)
    mixed = torch.where(by_hand[0].mask(noise), z, noise)
    loss = F.cross_entropy(by_hand[2](mixed.flatten(1)), y)
    loss = loss + 0.1 * (z - noise).square().mean()
    loss.backward()
    for a, b in zip(net.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(a, b - 0.05 * b.grad, atol=1e-6)
        assert b.grad.abs().sum() > 0


def test_the_rate_falls_along_half_a_cosine(pixels, labels, tmp_path):
    """Two steps without momentum: the second is half as long as at a constant rate."""
    torch.manual_seed(0)
    net = convert(nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.Flatten(), nn.Linear(8 * 7 * 7, 3)))
    first, weights = [], {}
    for schedule in ("constant", "cosine"):
        tuned, after = copy.deepcopy(net), []
        recipe = replace(ONE, schedule=schedule, momentum=0.0, batch=48)

        def keep(*_):
            after.append(tuned[0].weight.detach().clone())  # noqa: B023

        finetune(tuned, pixels, labels, tmp_path / schedule, recipe, progress=keep)
        first.append(after[0])
        weights[schedule] = after[1] - after[0]
    assert torch.equal(*first)
    assert torch.allclose(weights["cosine"], weights["constant"] / 2, atol=1e-7)


def test_reductions():
    torch.manual_seed(0)
    layer = convert(nn.Conv2d(3, 8, 1))
    z, noise = torch.randn(2, 8, 5, 3), torch.randn(2, 8, 5, 3)
    total = (z - noise).square().sum()
    for reduction, count in (("sum", 2), ("mean", 2 * 15), ("element", 2 * 15 * 8)):
        assert torch.allclose(mse(z, noise, layer, reduction), total / count)


def test_forward_mixed_or_accurate(net, pixels, labels, tmp_path):
    """The loss of the task before the first step is that of the mixed or of the dense network."""
    x, seen = pixels.float() / 255, {}
    expected = {}
    with torch.no_grad():
        for forward, scheme in (("mixed", "structured:7:8"), ("accurate", "dense")):
            expected[forward] = F.cross_entropy(set_scheme(net, scheme)(x), labels).item()
    for forward in expected:
        recipe = FineTuning(schemes=("structured:7:8",), batch=96, forward=forward)
        finetune(
            copy.deepcopy(net),
            pixels,
            labels,
            tmp_path / forward,
            recipe,
            progress=lambda step, steps, task, error, forward=forward: seen.update({forward: task}),
        )
    assert seen == pytest.approx(expected, rel=1e-3)
    assert abs(seen["mixed"] - seen["accurate"]) > 0.01


def test_schemes_take_turns_and_the_attack_sees_them(net, pixels, labels, tmp_path):
    seen = []

    def attack(net, x, y):
        seen.append(str(next(layers_of(net)).scheme))
        x = x.clone().requires_grad_()
        F.cross_entropy(net(x), y).backward()
        return (x + 8 / 255 * x.grad.sign()).clamp(0, 1)

    recipe = FineTuning(batch=24, optimizer="adamw", lr=1e-3)
    told = {"attack": "fgsm 8/255"}
    finetune(net, pixels, labels, tmp_path, recipe, attack=attack, told=told)
    assert seen == ["unstructured:0.9", "structured:7:8"] * 2
    assert {str(layer.scheme) for layer in layers_of(net)} == {"dense"}
    _, about = load_converted(tmp_path / "net.pt", nets.build("tiny", 3))
    assert about["record"]["one_net"]
    [tuning] = about["record"]["finetuning"]
    assert tuning["attack"] == "fgsm 8/255"
    assert (tuning["batch_norm"], tuning["projection_seed"]) == ("keep", 7)
    [run] = tuning["runs"]
    assert (run["steps"], run["device"], run["torch"]) == (4, "cpu", torch.__version__)


def test_fine_tuning_lowers_both_losses_under_noise(net, pixels, tmp_path):
    """The class is the strongest of three flat colours, which a network can learn."""
    labels = torch.arange(96) % 3
    pixels = pixels // 4
    pixels[torch.arange(96), labels] += 150
    x, losses, errors = pixels.float() / 255, [], []
    recipe = FineTuning(schemes=("structured:7:8",), batch=24, epochs=6, lr=0.03, mse_weight=1)
    for step in range(2):
        with torch.no_grad():
            losses.append(F.cross_entropy(set_scheme(net, "structured:7:8")(x), labels).item())
        if not step:
            finetune(
                net,
                pixels,
                labels,
                tmp_path,
                recipe,
                progress=lambda step, steps, task, error: errors.append(error),
            )
    assert losses[1] < 0.7 * losses[0]
    assert errors[-1] < 0.5 * errors[0]


class Stop(Exception):
    """Planted in the middle of a run."""


def test_an_interrupted_run_goes_on_the_same(net, pixels, labels, tmp_path):
    recipe = FineTuning(batch=24, epochs=2)

    def noisy(net, x, y):  # draws from the generator, as an attack does
        return (x + 0.03 * torch.randn_like(x)).clamp(0, 1)

    def stop(step, *_):
        if step == 5:
            raise Stop

    cut, fresh = copy.deepcopy(net), copy.deepcopy(net)
    finetune(net, pixels, labels, tmp_path / "whole", recipe, attack=noisy)
    with pytest.raises(Stop):
        finetune(
            cut,
            pixels,
            labels,
            tmp_path / "cut",
            recipe,
            attack=noisy,
            progress=stop,
            save_every_s=0,
        )
    steps = []
    torch.manual_seed(99)  # whatever else has drawn numbers
    finetune(
        fresh,
        pixels,
        labels,
        tmp_path / "cut",
        recipe,
        attack=noisy,
        progress=lambda step, *_: steps.append(step),
    )
    assert steps == [6, 7, 8]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), fresh.parameters(), strict=True))
    with pytest.raises(InputError, match="holds the state of another recipe"):
        finetune(fresh, pixels, labels, tmp_path / "cut", ONE)


def test_another_run_is_not_taken_up(net, pixels, labels, tmp_path):
    """Same recipe, and something else is not the same: nothing of it is done or recorded."""
    finetune(copy.deepcopy(net), pixels, labels, tmp_path, ONE, told={"data": "a"})
    before = (tmp_path / "net.pt").read_bytes()
    other = copy.deepcopy(net)
    other.stem.weight.data[0, 0, 0, 0] += 1e-6
    for given, message in (
        ((net, pixels ^ 1, labels, {"data": "a"}), r"recipe \(images_digest not the same"),
        ((net, pixels, labels.flip(0), {"data": "a"}), r"recipe \(labels_digest not the same"),
        ((net, pixels, labels, {"data": "b"}), r"recipe \(data not the same"),
        ((net, pixels, labels, {}), r"recipe \(data not the same"),
        ((other, pixels, labels, {"data": "a"}), "state of another network"),
    ):
        started, images, classes, told = given
        with pytest.raises(InputError, match=message):
            finetune(copy.deepcopy(started), images, classes, tmp_path, ONE, told=told)
    assert (tmp_path / "net.pt").read_bytes() == before
    set_scheme(net, "structured:4:8")  # which decides nothing
    finetune(net, pixels, labels, tmp_path, ONE, told={"data": "a"})


def test_other_batch_norms_and_damaged_states_are_refused(trained, pixels, labels, tmp_path):
    folded, kept = (convert(copy.deepcopy(trained), batch_norm=how) for how in ("fold", "keep"))
    finetune(copy.deepcopy(folded), pixels, labels, tmp_path, ONE)
    with pytest.raises(InputError, match="state of another network"):
        finetune(kept, pixels, labels, tmp_path, ONE)
    state = read(tmp_path / "state.pt", "fine-tuning")
    for made, words in (
        (state | {"net": {}}, r"is damaged \(RuntimeError\); remove it"),
        (state | {"step": "1"}, r"is damaged \(ValueError\); remove it"),
        (state | {"runs": '["cpu"]'}, r"is damaged \(TypeError\); remove it"),
        (state | {"identity": "[]"}, "is damaged, it does not say of which fine-tuning; choose"),
        (state | {"what": "training"}, "is no state of a fine-tuning; choose"),
        ({"recipe": state["identity"], "net": {}}, "was written by an earlier version of sinai"),
    ):
        torch.save(made, tmp_path / "state.pt")
        with pytest.raises(InputError, match=rf"state\.pt: {words}"):
            finetune(copy.deepcopy(folded), pixels, labels, tmp_path, ONE)


def test_the_record_says_where_each_step_ran(net, pixels, labels, tmp_path, monkeypatch):
    recipe = replace(ONE, batch=24)

    def stop(step, *_):
        if step == 3:
            raise Stop

    with pytest.raises(Stop):
        finetune(
            copy.deepcopy(net), pixels, labels, tmp_path, recipe, progress=stop, save_every_s=0
        )
    monkeypatch.setattr("sinai.model.runs.version", lambda name: "later")
    training = {"recipe": {"model": "tiny"}, "finetuning": [{"lr": 1}]}
    finetune(net, pixels, labels, tmp_path, recipe, training=training, network="tiny")
    about = read(tmp_path / "net.pt", "network")["about"]
    first, second = json.loads(about)["record"]["finetuning"]
    assert first == {"lr": 1}
    assert [(run["steps"], run["sinai"] == "later") for run in second["runs"]] == [
        (3, False),
        (1, True),
    ]


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"lr": 1e38, "batch": 24}, r"smaller lr, such as 1e\+37 \(and --resume"),
        ({"lr": 1e38}, r"at step 1 of 1 weights are not finite .*such as 1e\+37 \("),
        ({"lr": 1e38, "batch": 24, "reduction": "sum"}, r"or reduction element instead of sum \("),
    ],
    ids=str,
)
def test_a_diverged_run_leaves_no_network(net, pixels, labels, tmp_path, changes, remedy):
    with torch.no_grad():  # one gradient is enough to leave what float32 holds
        net.classifier.weight.mul_(1e6)
    with pytest.raises(InputError, match=remedy):
        finetune(net, pixels, labels, tmp_path, replace(ONE, **changes))
    assert not list(tmp_path.glob("*.pt"))


def test_a_run_that_diverges_late_may_begin_anew(net, pixels, labels, tmp_path):
    """The state that was saved before is not in the way of another rate."""
    recipe, saved = replace(ONE, batch=24), []

    def spoil(step, *_):
        saved.append((tmp_path / "state.pt").exists())
        with torch.no_grad():
            tuned.classifier.bias.fill_(torch.inf)

    tuned = copy.deepcopy(net)
    with pytest.raises(InputError, match="at step 2 of 4 the loss is nan"):
        finetune(tuned, pixels, labels, tmp_path, recipe, progress=spoil, save_every_s=0)
    assert saved == [True]
    assert finetune(net, pixels, labels, tmp_path, replace(recipe, lr=1e-3)) is net


@pytest.mark.parametrize("name", ["tiny", "tiny_preact"])
def test_a_folded_network_is_converted_again_and_comes_back(name, normed, tmp_path):
    """Its new layers say that batch-norms are kept, but there are none, or not all."""
    net = convert(unconvert(convert(normed(name), batch_norm="fold")), batch_norm="keep")
    save_converted(net, tmp_path / "net.pt", network=name)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_converted(tmp_path / "net.pt")[0](x), net(x))


def test_refusals(net, pixels, labels, tmp_path):
    for changes, message in (
        ({"forward": "dense"}, "forward must be mixed or accurate, not 'dense'"),
        ({"reduction": "max"}, "reduction must be element, mean or sum"),
        ({"batch": 0}, "epochs and batch must be at least 1"),
        ({"lr": float("inf")}, "both finite, not 1, 128, inf and 0.1"),
        ({"mse_weight": float("nan")}, "both finite, not 1, 128, 0.01 and nan"),
        ({"schemes": ("dense",)}, "schemes must be one or more with noise, not dense"),
    ):
        with pytest.raises(InputError, match=message):
            FineTuning(**changes)
    with pytest.raises(InputError, match="batch must be at most the 96 images, not 128"):
        finetune(net, pixels, labels, tmp_path)
    with pytest.raises(InputError, match="ResNet has no SINAI layer; convert it first"):
        finetune(nets.build("tiny"), pixels, labels, tmp_path, ONE)


@pytest.mark.parametrize("name", ["tiny", "tiny_preact", "tiny_vit"])
@pytest.mark.parametrize("batch_norm", ["keep", "fold"])
def test_files_give_the_network_back(name, batch_norm, tmp_path):
    torch.manual_seed(0)
    net = nets.build(name, 4).eval()
    changes = {"threshold": "static", "score": "abs", "batch_norm": batch_norm}
    net = convert(net, "unstructured:0.7", linear=True, skip=":first", seed=5, **changes)
    x = torch.rand(4, 3, 32, 32)
    set_thresholds(set_steps(net, x), x)
    save_converted(net, tmp_path / "net.pt", network=name, record={"by": "hand"})
    made, about = load_converted(tmp_path / "net.pt")
    assert about["record"] == {"by": "hand"}
    with torch.no_grad():
        assert torch.equal(made(x), net(x))
    other = convert(nets.build(name, 4).eval(), linear=True, skip=":first", **changes)
    other.load_state_dict(net.state_dict())  # plain weights, where the seed is known
    assert torch.equal(other.state_dict()["classifier.weight"], net.classifier.weight)


def test_files_with_code_are_refused(tmp_path):
    torch.save({"about": nn.ReLU(), "net": {}}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"evil\.pt: is no converted network \(UnpicklingError\)"):
        load_converted(tmp_path / "evil.pt")
    (tmp_path / "bytes.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"bytes\.pt: is no converted network"):
        load_converted(tmp_path / "bytes.pt")
    with pytest.raises(InputError, match=r"none\.pt: cannot be read"):
        read(tmp_path / "none.pt", "distillation")
    net = convert(nets.build("tiny"))
    save_converted(net, tmp_path / "net.pt")
    with pytest.raises(InputError, match="names no network; give one of its architecture"):
        load_converted(tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"net\.pt: does not fit the network"):
        load_converted(tmp_path / "net.pt", nets.build("tiny_preact"))
    state = read(tmp_path / "net.pt", "network")
    about = json.loads(state["about"])
    about["layers"]["stem"]["key"] = ["x", 1]
    torch.save(state | {"about": json.dumps(about)}, tmp_path / "key.pt")
    with pytest.raises(InputError, match=r"key\.pt: does not fit the network \(\w+Error\)"):
        load_converted(tmp_path / "key.pt", nets.build("tiny"))
    with pytest.raises(InputError, match="has no SINAI layer inside to save"):
        save_converted(nets.build("tiny"), tmp_path / "no.pt")
    with pytest.raises(InputError, match=r"cannot be written .*; give a file in a folder"):
        save_converted(net, tmp_path / "no" / "net.pt")


def test_a_pool_shares_what_is_exact(net):
    pool = Pool(net, 3, seed=1)
    whole = set(map(id, net.parameters()))
    for member in pool.members[1:]:
        own = {n for n, p in member.named_parameters() if id(p) not in whole}
        assert {n.rsplit(".")[-1] for n in own} == {"noise_weight", "noise_bias"}
        assert len(own) == 12
        for a, b in zip(layers_of(net), layers_of(member), strict=True):
            assert not torch.equal(a.matrix, b.matrix)
        assert member.bn.running_mean is net.bn.running_mean
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        set_scheme(pool, "dense")
        assert torch.equal(pool(x), net(x))
        set_scheme(pool, "unstructured:0.9")
        outs = torch.stack([member(x) for member in pool.members])
        drawn = [int((outs == pool(x)).flatten(1).all(1).int().argmax()) for _ in range(40)]
    assert set(drawn) == {0, 1, 2}


def test_a_pool_draws_for_a_batch_or_a_pass(net):
    pool = Pool(net, 4, draw="batch", seed=2)
    x = torch.rand(2, 3, 32, 32)
    set_scheme(pool, "unstructured:0.9")
    with torch.no_grad():
        first = pool(x)
        assert torch.equal(pool(x), first)
        assert len({pool.redraw() for _ in range(40)}) == 4
    twin = copy.deepcopy(pool)
    assert [pool.redraw() for _ in range(9)] == [twin.redraw() for _ in range(9)]
    for arguments, message in (
        ({"size": 0}, "size of the pool must be at least 1, not 0"),
        ({"size": 2, "draw": "epoch"}, "draw must be batch or forward, not 'epoch'"),
    ):
        with pytest.raises(InputError, match=message):
            Pool(net, **arguments)
    with pytest.raises(InputError, match="has no SINAI layer"):
        Pool(nn.ReLU(), 2)
