"""Networks, layer by layer through the compiled core: every byte, and the class."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="networks in integers need the extra model")

import torch

from sinai.common.commands import commands
from sinai.common.errors import MissingError
from sinai.common.integer import run_layer
from sinai.common.machine import PRESETS
from sinai.common.operands import Operands, input_stream, read_outputs
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme
from sinai.hw.driver import play
from sinai.hw.verilated import VerilatedCore
from sinai.model import nets
from sinai.model.chain import INPUT
from sinai.model.checkpoint import bundled, load
from sinai.model.data import Images
from sinai.model.distill import distill_net


def _tiny():
    """The bundled post-activation network and a test image."""
    folder = bundled()["tiny"]
    with np.load(folder / "images.npz") as archive:
        images = archive["test_images"][:1]
    return load(folder).integer("patch"), images


def _tiny_preact():
    """A pre-activation network with random weights and the batch-norms of random images."""
    rng = np.random.default_rng(2)
    pixels = (rng.random((24, 3, 8, 8)).repeat(4, 2).repeat(4, 3) * 255).astype(np.uint8)
    torch.manual_seed(1)
    net = nets.build("tiny_preact", 3)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    with torch.no_grad():
        net.train()(torch.from_numpy(pixels).float() / 255)
    images = Images("random/train", pixels, np.arange(24) % 3, ("a", "b", "c"))
    made = distill_net(net.eval(), "tiny_preact", images, noise_images=8, device="cpu", training={})
    return made.integer("patch"), pixels[:1]


@pytest.fixture(scope="module")
def networks():
    return {"tiny": _tiny(), "tiny_preact": _tiny_preact()}


@pytest.mark.parametrize("network", ["tiny", "tiny_preact"])
@pytest.mark.parametrize(
    ("preset", "scheme"),
    [("structured-small", "structured:6:8"), ("unstructured-small", "unstructured:0.9")],
)
def test_every_byte_and_the_class(networks, network, preset, scheme):
    """Six convolutions, two residuals, an image: each layer reads what the RTL wrote before.

    In the pre-activation network the residuals are the sums that the RTL kept, and the batch-norms
    behind them run in the RTL. The host does no more than in the product: quantise the image, pool,
    and classify.
    """
    net, images = networks[network]
    machine, scheme = PRESETS[preset], Scheme.parse(scheme)
    try:
        core = VerilatedCore(machine)
    except MissingError as error:
        pytest.skip(str(error))
    x, xq = net.quantise_images(images)
    read, added = {INPUT: (x[0], xq[0])}, {}
    for spec in net.layers:
        layer = spec.layer
        x, xq = read[spec.source]
        residual = added[spec.residual] if spec.residual else None
        # theta is the host's: Top-K of this image, as the trace exporter finds it.
        wanted = run_layer(
            spec, x[None], xq[None], None if residual is None else residual[None], scheme
        )
        theta = wanted.theta[0] if wanted.theta else None
        operands = Operands(spec=spec, x=x, xq=xq, residual=residual)
        program = compile_layer(layer, machine, scheme)
        made = commands(program, spec, theta=theta, store_sums=bool(layer.joined))
        played = play(core, made, input_stream(made, operands))
        found = read_outputs(made, played.output)
        for key in ("y", "yq", "s") if layer.joined else ("y", "yq"):
            np.testing.assert_array_equal(
                getattr(found, key), getattr(wanted, key)[0], err_msg=f"{layer.name} {key}"
            )
        size = (layer.h_out, layer.w_out, layer.c_out)
        read[layer.name] = found.y.reshape(size), found.yq.reshape(size)
        added[layer.name] = found.y if spec.y_scale is None else found.s
    last = net.layers[-1]
    y, _ = read[last.layer.name]
    pooled = y.mean((0, 1), dtype=np.float64) * last.output_scale
    logits = net.classifier.astype(np.float64) @ pooled + net.classifier_bias
    np.testing.assert_allclose(logits, net.run(images, scheme)[0])
    assert logits.argmax() == net.run(images, scheme)[0].argmax()
