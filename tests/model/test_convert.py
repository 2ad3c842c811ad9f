"""Conversion of any network: what is chosen, what is refused, and what stays as it was."""

import copy

import pytest
import torch
from torch import nn

from sinai.common.errors import InputError
from sinai.model import nets
from sinai.model.sinai import (
    SinaiConv2d,
    SinaiLinear,
    convert,
    layers_of,
    set_scheme,
    survey,
    unconvert,
)
from sinai.traces import networks

TINY = [name for name in nets.MODELS if name.startswith("tiny")]


def shaken(name):
    """A tiny network whose batch-norms and positions are not those of the start."""
    torch.manual_seed(2)
    net = nets.build(name, 5)
    for p in net.parameters():
        if p.ndim == 1:
            p.data.add_(0.2 * torch.randn_like(p))
    with torch.no_grad():
        net.train()(torch.rand(8, 3, 32, 32))
    return net.eval()


@pytest.mark.parametrize("name", TINY)
def test_dense_is_the_original_bit_for_bit(name):
    net, x = shaken(name), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = net(x)
        made = convert(net, linear=True)
        assert torch.equal(made(x), expected)
        assert not torch.allclose(set_scheme(made, "structured:7:8")(x), expected, atol=1e-3)
        assert torch.equal(set_scheme(made, "dense")(x), expected)


@pytest.mark.parametrize("name", TINY)
def test_unconverted_is_the_original_bit_for_bit(name):
    net, x = shaken(name), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = net(x)
        made = unconvert(convert(net, "structured:7:8", linear=True))
        assert not list(layers_of(made))
        assert torch.equal(made(x), expected)


@pytest.mark.parametrize("name", TINY)
def test_layers_and_projections_are_those_of_the_geometry(name):
    """Same names, same k and the same P as the traces count, in the accelerator's order."""
    for projection in ("patch", "tap"):
        made = convert(nets.build(name), linear=True, seed=6, projection=projection)
        geometry = networks.layers(name, projection, 6)
        found = [(k.name, k.k, int(k.matrix.count_nonzero())) for k in layers_of(made)]
        assert found == [(k.name, k.k, k.projection_nonzeros) for k in geometry]


@pytest.mark.parametrize("name", ["tiny", "tiny_preact"])
def test_folding_before_conversion_keeps_the_outputs(name):
    net, x = shaken(name), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = net(x)
        made = convert(net, batch_norm="fold")
        assert torch.allclose(made(x), expected, atol=1e-4)
    left = [n for n, m in made.named_modules() if isinstance(m, nn.BatchNorm2d)]
    inner = ["blocks.0.bn1", "blocks.1.bn1", "bn"]  # before convolutions
    assert left == ([] if name == "tiny" else inner)


def names(net):
    return [layer.name for layer in layers_of(net)]


def test_choosing_by_pattern_predicate_and_place():
    made = convert(nets.build("tiny"), skip=(":first", "*.shortcut.*"))
    assert names(made) == [
        "blocks.0.conv1",
        "blocks.0.conv2",
        "blocks.1.conv1",
        "blocks.1.conv2",
    ]
    wide = convert(nets.build("tiny"), only=lambda name, m: m.out_channels == 16)
    assert names(wide) == ["blocks.1.conv1", "blocks.1.shortcut.0", "blocks.1.conv2"]
    mlp = convert(nets.build("tiny_vit"), linear=True, only="*.mlp.*")
    assert names(mlp) == [f"blocks.{b}.mlp.fc{i}" for b in (0, 1) for i in (1, 2)]
    assert "classifier" not in names(convert(nets.build("tiny_vit"), linear=True))
    assert "classifier" in names(convert(nets.build("tiny_vit"), linear=True, skip=()))
    assert names(convert(nets.build("tiny_vit"))) == ["patch_embed.proj"]
    with pytest.raises(InputError, match=r"skip: 'layer1\.\*' fits no layer; .* stem, "):
        convert(nets.build("tiny"), skip="layer1.*")


def test_the_choice_does_not_change_p():
    whole, part = convert(nets.build("tiny")), convert(nets.build("tiny"), only="blocks.1.*")
    for layer in layers_of(part):
        assert torch.equal(layer.matrix, whole.get_submodule(layer.name).matrix)


def test_what_cannot_be_converted_is_refused_or_left():
    grouped = nn.Conv2d(8, 8, 3, groups=8)
    net = nn.Sequential(nn.Conv2d(4, 8, 1), grouped, nn.ConvTranspose2d(8, 2, 2))
    state = copy.deepcopy(net)
    with pytest.raises(InputError, match=r"layer 1: only square .* one group.*skip it"):
        convert(net)
    assert all(type(a) is type(b) for a, b in zip(net, state, strict=True))
    assert [(f.name, f.action) for f in survey(net)] == [
        ("0", "convert"),
        ("1", "refuse"),
        ("2", "leave"),
    ]
    assert "ConvTranspose2d is neither" in survey(net)[2].reason
    made = convert(net, strict=False)
    assert [type(m) for m in made] == [SinaiConv2d, nn.Conv2d, nn.ConvTranspose2d]
    with pytest.raises(InputError, match="ReLU has no layer to convert among none"):
        convert(nn.ReLU())


def test_attention_that_reads_weights_past_its_layers_is_refused():
    net = nn.TransformerEncoderLayer(8, 2, 16)
    with pytest.raises(InputError, match="TransformerEncoderLayer reads the weights without"):
        convert(net, linear=True)


def test_hooks_and_subclasses_are_refused():
    class Mine(nn.Conv2d):
        pass

    with pytest.raises(InputError, match=r"only plain Conv2d and Linear layers .* not a Mine"):
        convert(nn.Sequential(Mine(3, 4, 1)))
    hooked = nn.Conv2d(3, 4, 1)
    hooked.register_forward_hook(lambda m, args, out: out)
    with pytest.raises(InputError, match="hooks would lose them"):
        convert(nn.Sequential(hooked))


def test_converted_modules_are_kept_and_get_the_scheme():
    made = convert(nets.build("tiny"), only="stem", seed=3)
    stem = made.stem
    again = convert(made, "structured:4:8", seed=9)
    assert again.stem is stem
    assert len(names(again)) == 6
    assert {str(layer.scheme) for layer in layers_of(again)} == {"structured:4:8"}
    assert {layer.key[0] for layer in layers_of(again)} == {3, 9}


class Shared(nn.Module):
    """One convolution under two names, and another with the same weights."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = self.a
        self.c = nn.Conv2d(4, 4, 3, padding=1)
        self.c.weight = self.a.weight
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_var.fill_(4)

    def forward(self, x):
        return self.norm(self.c(self.b(self.a(x))))


@pytest.mark.parametrize("batch_norm", ["keep", "fold"])
def test_shared_modules_and_weights_stay_shared(batch_norm):
    net, x = Shared().eval(), torch.rand(2, 4, 5, 5)
    expected = net(x)
    made = convert(net, batch_norm=batch_norm)
    assert made.a is made.b
    assert made.a.weight is made.c.weight
    assert torch.equal(made(x), expected)
    assert names(made) == ["a", "c"]


def test_a_convolution_that_runs_twice_is_not_folded():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.norm.running_var.fill_(4)

        def forward(self, x):
            return self.norm(self.conv(self.conv(x)))

    net, x = Twice().eval(), torch.rand(2, 4, 5, 5)
    expected = net(x)
    assert torch.equal(convert(net, batch_norm="fold")(x), expected)


def test_what_cannot_be_traced_says_so():
    class Jumps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.conv(x)) if x.sum() > 0 else x

    with pytest.raises(InputError, match=r"Jumps cannot be traced .* with batch_norm='keep'"):
        convert(Jumps(), batch_norm="fold")


def test_mode_is_kept_layer_by_layer():
    net = nets.build("tiny").train()
    net.blocks.eval()
    made = convert(net)
    assert made.stem.training
    assert not made.blocks[0].conv1.training
    assert made.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_type_of_numbers_is_kept(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 1)).to(dtype)
    x = torch.rand(2, 3, 6, 6).to(dtype)
    made = convert(net, "structured:4:8")
    assert {p.dtype for p in made.parameters()} == {dtype}
    assert made(x).dtype == dtype
    wide = set_scheme(copy.deepcopy(made).float(), "structured:8:8")(x.float())
    assert torch.allclose(set_scheme(made, "structured:8:8")(x).float(), wide, rtol=0.1, atol=0.1)
    assert torch.equal(made[0].project(x)[0].round(), made[0].project(x)[0])  # whole numbers


def test_autocast_leaves_the_noise_in_float32():
    made = convert(nn.Sequential(nn.Conv2d(3, 8, 3)), "structured:8:8")
    x = torch.rand(2, 3, 6, 6)
    expected = made(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made(x), expected)


def test_linear_layers_of_any_leading_shape():
    """Tokens one by one give what all give together, where groups are of channels."""
    torch.manual_seed(1)
    made = convert(nn.Linear(12, 16), "structured:4:8", linear=True, skip=())
    assert isinstance(made, SinaiLinear)
    made.x_step.fill_(0.2)
    made.p_shift.fill_(1)
    x = torch.randn(2, 3, 5, 12)
    out = made(x)
    assert out.shape == (2, 3, 5, 16)
    assert torch.allclose(out[1, 2], made(x[1, 2]), atol=1e-6)
    assert torch.allclose(out[1, 2, 4], made(x[1, 2, 4]), atol=1e-6)
    exact = (out == made.exact(x)).view(-1, 2, 8).sum(-1)
    assert (exact == 4).all()


def test_linear_is_a_one_by_one_convolution():
    torch.manual_seed(1)
    linear, conv = nn.Linear(12, 16), nn.Conv2d(12, 16, 1)
    conv.weight.data = linear.weight.data.view(16, 12, 1, 1)
    conv.bias.data = linear.bias.data
    x = torch.rand(3, 7, 12)
    as_map = x.transpose(1, 2)[..., None]
    for scheme in ("unstructured:0.6", "structured:5:8", "unstructured:1"):
        a = convert(copy.deepcopy(linear), scheme, linear=True, skip=())
        b = convert(copy.deepcopy(conv), scheme)
        assert torch.allclose(a(x), b(as_map)[..., 0].transpose(1, 2), atol=1e-5)


def test_a_single_image_without_a_batch():
    made = convert(nn.Conv2d(3, 8, 3), "unstructured:0.5")
    x = torch.rand(3, 6, 6)
    assert torch.allclose(made(x), made(x[None])[0])


def test_same_padding_is_taken_over():
    conv, x = nn.Conv2d(3, 8, 3, padding="same"), torch.rand(1, 3, 6, 6)
    expected = conv(x)
    assert torch.equal(convert(conv)(x), expected)
