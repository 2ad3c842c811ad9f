"""Training: resumed is the same as uninterrupted, and what is refused."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from sinai.common.errors import InputError
from sinai.model.adversary import perturb
from sinai.model.data import Images
from sinai.model.nets import build
from sinai.model.recipes import RECIPES, Recipe
from sinai.model.train import accuracy, rate, robust_accuracy, train

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


def test_a_run_goes_on_with_the_same_images_alone(images, tmp_path):
    """Once it has ended nothing runs: the record still says what it was trained on."""
    other = Images("other", images.images[::-1].copy(), images.labels, images.classes)
    with pytest.raises(Stopped):
        train(RECIPE, images, tmp_path, progress=stop_after(2), save_every_s=0)
    with pytest.raises(InputError, match=r"of a training on other images, random/train; give"):
        train(RECIPE, other, tmp_path)
    net = train(RECIPE, images, tmp_path)
    record = (tmp_path / "record.json").read_text()
    assert json.loads(record)["data"] == "random/train"
    again = train(RECIPE, other.take(np.arange(9)), tmp_path)  # a batch has more
    assert (tmp_path / "record.json").read_text() == record
    for name, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.fixture(scope="module")
def state(images, tmp_path_factory):
    """What a training that was stopped after its fourth step left."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stopped):
        train(RECIPE, images, folder, progress=stop_after(4), save_every_s=0)
    return torch.load(folder / "state.pt", weights_only=True)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"made": None}, "TypeError"),
        ({"made": "[]"}, "TypeError"),
        ({"made": '{"steps": 6}'}, "KeyError"),
        ({"runs": "[3]"}, "TypeError"),
        ({"net": {}}, "RuntimeError"),
        ({"optimizer": {"state": {}, "param_groups": []}}, "ValueError"),
        ({"step": "4"}, "ValueError"),
        ({"step": 7}, "ValueError"),
        ({"best": [1]}, "TypeError"),
        ({"best": {"score": 0.5, "epoch": 1, "net": {}}}, "RuntimeError"),
    ],
    ids=str,
)
def test_a_damaged_state_is_named(images, state, tmp_path, changes, kind):
    torch.save(state | changes, tmp_path / "state.pt")
    words = rf"state\.pt: is damaged, or of data of other classes \({kind}\); choose another folder"
    with pytest.raises(InputError, match=words):
        train(RECIPE, images, tmp_path)


def test_a_state_of_something_else_is_named(images, state, tmp_path):
    """Earlier versions said neither what a state is of nor on what it was made."""
    earlier = {name: state[name] for name in ("recipe", "step", "net", "optimizer", "best")}
    for made, words in (
        (earlier, r"was written by an earlier version of sinai; .*`sinai exp`, --work\)$"),
        (state | {"what": "fine-tuning"}, "is no state of a training"),
        ({"what": "training"}, "holds the state of another recipe"),
        ({}, "is no state of a training"),
    ):
        torch.save(made, tmp_path / "state.pt")
        with pytest.raises(InputError, match=rf"state\.pt: {words}"):
            train(RECIPE, images, tmp_path)
    (tmp_path / "state.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"state\.pt: is no state of a training"):
        train(RECIPE, images, tmp_path)
    assert not (tmp_path / "record.json").exists()


def test_the_record_says_where_each_step_ran(images, state, tmp_path, monkeypatch):
    """Also that of a training that has ended, which runs no further step."""
    torch.save(state, tmp_path / "state.pt")
    monkeypatch.setattr("sinai.model.runs.version", lambda name: "later")
    for _ in range(2):
        train(RECIPE, images, tmp_path)
        record = json.loads((tmp_path / "record.json").read_text())
        assert [(run["steps"], run["sinai"] == "later") for run in record["runs"]] == [
            (4, False),
            (2, True),
        ]
        assert record["runs"][0]["device"] == "cpu"
        assert record["runs"][0]["torch"] == torch.__version__
    assert not record.keys() & {"device", "torch", "python"}


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
        train(Recipe(model="vgg", batch=32), images, tmp_path / "other")


def test_a_resumed_adversarial_run_gives_the_same_network(images, tmp_path):
    """Also the draws of the adversary, and the epoch that validation chose."""
    recipe = replace(
        RECIPE, adversary="pgd", attack_steps=2, validation=16, schedule="steps", batch=40
    )
    whole = train(recipe, images, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(recipe, images, tmp_path / "parts", progress=stop_after(3), save_every_s=0)
    parts = train(recipe, images, tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    records = [json.loads((tmp_path / n / "record.json").read_text()) for n in ("whole", "parts")]
    assert records[0]["validation"] == records[1]["validation"]
    assert records[0]["images"] == 80


def test_validation_keeps_the_best_epoch(images, tmp_path, monkeypatch):
    """Scores of three epochs; the network of the second comes back, and is saved."""
    nets = []

    def judge(net, held, recipe):
        assert len(held) == 32
        nets.append(copy.deepcopy(net.state_dict()))
        return (0.2, 0.6, 0.6)[len(nets) - 1]

    monkeypatch.setattr("sinai.model.train.robust_accuracy", judge)
    net = train(replace(RECIPE, resolutions=(16,) * 3, validation=32), images, tmp_path)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)["net"]
    for name, value in nets[1].items():
        assert torch.equal(value, net.state_dict()[name]), name
        assert torch.equal(value, saved[name]), name
    assert json.loads((tmp_path / "record.json").read_text())["validation"] == {
        "robust_accuracy": 0.6,
        "epoch": 2,
    }


@pytest.mark.parametrize(("adversary", "reach"), [("fgsm", 3), ("pgd", 1)])
def test_adversary_raises_the_loss_within_its_reach(adversary, reach):
    """N-FGSM starts within 2 eps and steps one further; PGD stays within eps."""
    torch.manual_seed(0)
    net = build("tiny").eval()
    x, y = torch.rand(64, 3, 32, 32), torch.arange(64) % 10
    recipe = Recipe(adversary=adversary)
    found = perturb(net, x, y, recipe)
    assert found.min() >= 0
    assert found.max() <= 1
    moved = (found - x).abs().max()
    assert recipe.eps * (reach - 0.1) < moved <= recipe.eps * reach + 1e-6
    assert cross_entropy(net(found), y) > cross_entropy(net(x), y) + 0.01
    assert all(p.grad is None for p in net.parameters())
    assert perturb(net, x, y, Recipe()) is x


def test_trains_on_what_the_adversary_returns(images, tmp_path, monkeypatch):
    seen = []

    def grey(net, x, y, recipe):
        assert net.training
        assert 0 <= x.min() <= x.max() <= 1
        net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].std().item()))
        return torch.full_like(x, 0.5)

    monkeypatch.setattr("sinai.model.train.perturb", grey)
    train(replace(RECIPE, resolutions=(16,), batch=96), images, tmp_path)
    assert seen == [0.0]


def test_rate_of_each_schedule():
    one = Recipe(warmup=0.25)
    assert [rate(done, one) for done in (0, 0.25, 1)] == pytest.approx([0.1, 1, 0])
    assert [rate(done, RECIPES["rice"]) for done in (0, 0.49, 0.5, 0.75)] == pytest.approx(
        [1, 1, 0.1, 0.01]
    )


def test_recipes_are_the_papers():
    """Appendix D."""
    rice, imagenet = RECIPES["rice"], RECIPES["imagenet"]
    assert (len(rice.resolutions), rice.batch, rice.peak_lr, rice.weight_decay) == (
        200,
        128,
        0.1,
        5e-4,
    )
    assert (rice.eps, rice.attack_step, rice.attack_steps) == (8 / 255, 2 / 255, 10)
    assert (len(imagenet.resolutions), imagenet.batch, imagenet.peak_lr) == (90, 64, 0.02)
    assert (imagenet.eps, imagenet.attack_steps) == (4 / 255, 2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"adversary": "cw"}, "adversary must be none, fgsm or pgd, not 'cw'"),
        ({"schedule": "cosine"}, "schedule must be one-cycle or steps, not 'cosine'"),
        ({"eps": 8.0}, "eps must be above 0 and below 1, not 8"),
        ({"peak_lr": 0.0}, "peak_lr must be above 0, not 0"),
        ({"attack_steps": 0}, "attack_steps must be at least 1, not 0"),
        ({"milestones": (0.7, 0.5)}, "milestones must rise"),
        ({"resolutions": ()}, "resolutions must be one side an epoch"),
    ],
)
def test_recipe_refuses(wrong, words):
    with pytest.raises(InputError, match=words):
        Recipe(**wrong)


def test_validation_needs_images_left(images, tmp_path):
    with pytest.raises(InputError, match="validation must be below the 96 images"):
        train(replace(RECIPE, validation=96), images, tmp_path)


def test_robust_accuracy_counts_what_survives():
    """A network that looks at the mean alone: PGD moves it by eps, and so by no more."""

    class Brightness(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            mean = self.scale * (x.mean((1, 2, 3)) - 0.5)
            return torch.stack([-mean, mean], 1)

    pixels = np.array([100, 124, 131, 150], np.uint8)[:, None, None, None]  # 127.5 is the border
    data = Images("grey", np.tile(pixels, (1, 3, 8, 8)), np.array([0, 0, 1, 1]), ("dark", "bright"))
    net = Brightness()
    assert accuracy(net, data) == 1
    for eps, share in ((2 / 255, 1), (8 / 255, 0.5), (50 / 255, 0)):
        recipe = Recipe(eps=eps, attack_step=eps / 4, attack_steps=8, bfloat16=False)
        assert robust_accuracy(net, data, recipe) == share
