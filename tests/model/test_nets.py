"""Networks against published sizes and against the geometry that traces and simulator use."""

import pytest
import torch
from torch import nn

from sinai.common.errors import InputError
from sinai.model import nets
from sinai.model.chain import chain
from sinai.traces import networks


def count(name, classes):
    with torch.device("meta"):
        return sum(p.numel() for p in nets.build(name, classes).parameters())


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("resnet18", 10, 11_173_962),  # He et al.'s network in CIFAR form (pytorch-cifar)
        ("resnet18_224", 1000, 11_689_512),  # the ImageNet form (torchvision's model page)
        ("resnet50", 1000, 25_557_032),  # torchvision's model page
        ("resnet50_32", 10, 23_520_842),  # pytorch-cifar
        # pytorch-cifar's 11 171 146, and Rice et al.'s last batch-norm of 512 channels
        ("preactresnet18", 10, 11_171_146 + 2 * 512),
        ("wrn34_10", 10, 46_160_474),  # "46.2M" of the papers that attack it
        ("vit_b16", 1000, 86_567_656),  # torchvision's model page; "86M" in the paper
    ],
)
def test_published_parameter_counts(name, classes, parameters):
    assert count(name, classes) == parameters


def test_the_names_are_those_of_the_geometry():
    assert [*nets.MODELS] == [*networks.NETWORKS]


@pytest.mark.parametrize("name", nets.MODELS)
def test_layers_are_those_of_the_geometry(name):
    """What a forward pass calls, shapes and paddings, in the order of execution up to shortcuts."""
    geometry = {layer.name: layer for layer in networks.layers(name)}
    side = 224 if geometry["stem" if "stem" in geometry else "patch_embed.proj"].h_in == 224 else 32
    with torch.device("meta"):
        net = nets.build(name, 7).eval()
        x = torch.empty(2, 3, side, side)
    called = {}
    for path, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(
                lambda m, args, out, path=path: called.update({path: (m, args[0].shape, out.shape)})
            )
    assert net(x).shape == (2, 7)
    assert "classifier" in called
    called.pop("classifier")
    assert called.keys() == geometry.keys()
    assert [path for path in called if "shortcut" not in path] == [
        path for path in geometry if "shortcut" not in path
    ]
    for path, (module, before, after) in called.items():
        layer = geometry[path]
        if isinstance(module, nn.Linear):
            assert before == (2, layer.h_in * layer.w_in, layer.c_in), path
            assert after == (2, layer.pixels, layer.c_out), path
            assert layer.kernel == 1
        else:
            assert before == (2, layer.c_in, layer.h_in, layer.w_in), path
            assert after == (2, layer.c_out, layer.h_out, layer.w_out), path
            assert module.kernel_size == (layer.kernel,) * 2, path


@pytest.mark.parametrize("name", [n for n in nets.MODELS if n.startswith("tiny")])
def test_tiny_networks_learn_three_images(name):
    """Thirty steps of SGD bring down the loss of three images: every part passes gradients."""
    torch.manual_seed(0)
    net = nets.build(name, 3).train()
    x, y = torch.rand(3, 3, 32, 32), torch.arange(3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_pre_activation_by_hand():
    """A block of one channel with weights of one: relu(x), convolved twice, on top of x."""
    block = nets.build("tiny_preact").blocks[0]
    block = type(block)(1, 1, 1).eval()
    for conv in (block.conv1, block.conv2):
        conv.weight.data.zero_()
        conv.weight.data[0, 0, 1, 1] = 2
    x = torch.tensor([[[[-3.0, 5.0]]]])
    assert torch.allclose(block(x), torch.tensor([[[[-3.0, 5 + 4 * 5]]]]), rtol=1e-4)


def test_attention_by_hand():
    """One head against softmax(q k^T / sqrt(C)) v in plain matrix products."""
    torch.manual_seed(1)
    attention = nets.build("tiny_vit").blocks[0].attn
    attention.heads = 1
    x = torch.randn(2, 5, 32)
    q, k, v = attention.qkv(x).split(32, dim=-1)
    weights = torch.softmax(q @ k.transpose(1, 2) / 32**0.5, -1)
    assert torch.allclose(attention(x), attention.proj(weights @ v), atol=1e-5)


def test_refusals():
    with pytest.raises(InputError, match=r"model must be one of .*wrn34_10, not 'vgg16'"):
        nets.build("vgg16")
    with pytest.raises(InputError, match=r"images must be 32x32 pixels .* not 16x16"):
        nets.build("tiny_vit")(torch.rand(1, 3, 16, 16))
    with pytest.raises(InputError, match="VisionTransformer does not run in integers; only resid"):
        chain(nets.build("tiny_vit"))
