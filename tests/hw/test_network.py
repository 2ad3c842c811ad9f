"""A trained network, layer by layer through the compiled core: every byte, and the class."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bundled network is read by the extra model")

from sinai.common.commands import commands
from sinai.common.errors import MissingError
from sinai.common.integer import run_layer
from sinai.common.machine import PRESETS
from sinai.common.operands import Operands, input_stream, read_outputs
from sinai.common.program import compile_layer
from sinai.common.scheme import Scheme
from sinai.hw.driver import play
from sinai.hw.verilated import VerilatedCore
from sinai.model.chain import INPUT
from sinai.model.checkpoint import bundled, load


@pytest.fixture(scope="module")
def tiny():
    folder = bundled()["tiny"]
    with np.load(folder / "images.npz") as archive:
        images = archive["test_images"][:1]
    return load(folder).integer("patch"), images


@pytest.mark.parametrize(
    ("preset", "scheme"),
    [("structured-small", "structured:6:8"), ("unstructured-small", "unstructured:0.9")],
)
def test_every_byte_and_the_class(tiny, preset, scheme):
    """Six convolutions, two residuals, a real image: each layer reads what the RTL wrote before.

    The host does no more than in the product: quantise the image, pool, and classify.
    """
    net, images = tiny
    machine, scheme = PRESETS[preset], Scheme.parse(scheme)
    try:
        core = VerilatedCore(machine)
    except MissingError as error:
        pytest.skip(str(error))
    x, xq = net.quantise_images(images)
    made_by_rtl = {INPUT: (x[0], xq[0])}
    for spec in net.layers:
        layer = spec.layer
        x, xq = made_by_rtl[spec.source]
        residual = None
        if spec.residual:
            residual = made_by_rtl[spec.residual][0].reshape(layer.pixels, layer.c_out)
        # theta is the host's: Top-K of this image, as the trace exporter finds it.
        wanted = run_layer(
            spec, x[None], xq[None], None if residual is None else residual[None], scheme
        )
        theta = wanted.theta[0] if wanted.theta else None
        operands = Operands(spec=spec, x=x, xq=xq, residual=residual)
        made = commands(compile_layer(layer, machine, scheme), spec, theta=theta)
        played = play(core, made, input_stream(made, operands))
        found = read_outputs(made, played.output)
        np.testing.assert_array_equal(found.y, wanted.y[0], err_msg=layer.name)
        np.testing.assert_array_equal(found.yq, wanted.yq[0], err_msg=layer.name)
        size = (layer.h_out, layer.w_out, layer.c_out)
        made_by_rtl[layer.name] = found.y.reshape(size), found.yq.reshape(size)
    last = net.layers[-1]
    pooled = made_by_rtl[last.layer.name][0].mean((0, 1), dtype=np.float64) * last.scale
    logits = net.classifier.astype(np.float64) @ pooled + net.classifier_bias
    np.testing.assert_allclose(logits, net.run(images, scheme)[0])
    assert logits.argmax() == net.run(images, scheme)[0].argmax()
