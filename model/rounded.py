"""The fake-quantised network: PyTorch, but with every rounding of the accelerator.

What the accelerator keeps in 16 bit is rounded to the steps of that tensor and limited to int16:
the normalised image, z, z~, the sum s and y. x^Q is rounded from that y and p from x^Q, and theta
is compared with that z~. Sums of products are float32, where the accelerator's are whole numbers;
that is all in which it differs from :mod:`sinai.model.integer`. Gradients pass straight through.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..common.integer import IntegerLayer
from ..common.scheme import Scheme
from .chain import INPUT, chain
from .integer import IntegerNet
from .quant import levels, to_grid
from .quantise import dequantise
from .sinai import SinaiConv2d, layers_of, set_scheme
from .steps import set_thresholds

__all__ = ["RoundedConv2d", "fake_quantised", "static_thresholds"]

_INT16 = (-(1 << 15), (1 << 15) - 1)

#: A threshold above every z~.
_NOTHING = 1 << 15


class RoundedConv2d(SinaiConv2d):
    """A SINAI layer with z and z~ in the accelerator's 16-bit steps.

    Parameters
    ----------
    layer : SinaiConv2d
        With the values of `spec`; weights are shared with it.
    spec : IntegerLayer
        The same layer in integers.
    x_scale : float
        Value of one step of the 16-bit x.
    x_shift : int
        x^Q = clamp(round(x >> x_shift)).
    """

    def __init__(self, layer: SinaiConv2d, spec: IntegerLayer, x_scale: float, x_shift: int):
        shape = (layer.c_in, layer.c_out, layer.kernel, layer.stride, layer.padding)
        conv = nn.utils.skip_init(nn.Conv2d, *shape)
        conv.weight, conv.bias = layer.weight, layer.bias
        super().__init__(conv, layer.name, layer.key, scheme=layer.scheme, switches=layer.switches)
        self.load_state_dict(layer.state_dict())
        self.train(layer.training)
        self.z_scale, self.x_scale, self.x_shift = spec.scale, x_scale, x_shift

    def exact(self, x: Tensor) -> Tensor:
        return to_grid(super().exact(x), self.z_scale, *_INT16)

    def approximate(self, x: Tensor) -> Tensor:
        # Rounded from whole numbers: of a value halfway between two levels, as one in 2**x_shift
        # is, division by a real step would decide at random.
        whole = levels(x, self.x_scale, *_INT16)
        level = levels(whole, 2.0**self.x_shift, *self.switches.input_range(bool(self.x_unsigned)))
        return to_grid(super().approximate(level * self.x_step), self.z_scale, *_INT16)


def fake_quantised(net: IntegerNet, seed: int) -> nn.Module:
    """Return the PyTorch network that rounds as `net` does, scheme ``dense``, in eval mode; `seed`
    is that of P."""
    out = dequantise(net, seed)
    specs = {spec.layer.name: spec for spec in net.layers}
    scales = {name: spec.output_scale for name, spec in specs.items()} | {INPUT: net.input_scale}
    shifts = {name: spec.quantise_shift for name, spec in specs.items()}
    shifts[INPUT] = net.input_shift
    _round_output(out.normalize, net.input_scale)
    for link in chain(out):
        spec = specs[link.name]
        layer = RoundedConv2d(link.module, spec, scales[link.source], shifts[link.source])
        out.set_submodule(link.name, layer)
        if link.norm is not None:
            _round_output(link.norm, spec.output_scale)
    for index, block in enumerate(out.blocks):  # the sum; where a ReLU follows, that of the ReLU
        last = [spec for name, spec in specs.items() if name.startswith(f"blocks.{index}.")][-1]
        _round_output(block, last.scale)
    return out


def _round_output(module: nn.Module, scale: float) -> None:
    """Round what `module` returns to 16-bit steps of `scale`."""
    module.register_forward_hook(partial(_rounded, scale=scale))


def _rounded(module: nn.Module, args: tuple[Tensor, ...], out: Tensor, *, scale: float) -> Tensor:
    return to_grid(out, scale, *_INT16)


@torch.no_grad()
def static_thresholds(net: nn.Module, scheme: str | Scheme, images: Tensor) -> tuple[int, ...]:
    """Calibrate a static theta of every layer of a fake-quantised `net` and return them in the
    accelerator's numbers, in order of execution: the `thetas` of :meth:`IntegerNet.run`.

    theta of a layer is the K-th largest z~ over all `images` (B, 3, H, W) in [0, 1] together, each
    layer seeing what the static layers before it give. `net` keeps the scheme, unstructured, and
    selects by these thresholds from now on.

    Raises
    ------
    InputError
        If the scheme is not unstructured.
    """
    for layer in layers_of(net):
        layer.switches = replace(layer.switches, threshold="static")
    set_thresholds(set_scheme(net, scheme), images)
    layers = [link.module for link in chain(net)]
    steps = [float(layer.theta) / layer.z_scale for layer in layers]
    return tuple(_NOTHING if math.isinf(theta) else round(theta) for theta in steps)
