"""The fake-quantised network: PyTorch, with every rounding of the accelerator.

What the accelerator keeps in 16 bit is rounded to the steps of that tensor and limited to int16:
the normalised image, z, z~, the sum s and y. x^Q is rounded from that y and p from x^Q, and theta
is compared with that z~. Between layers values are real, float32. Within one, sums are those of
whole numbers, which floating point holds exactly: in float64, and in float32 on the 4-bit path. So
every value is that of :mod:`sinai.model.integer`, by another way. It matters: under noise a last
bit decides which neurons are exact, and grows from layer to layer.

Gradients pass straight through to the images; weights are constants.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.integer import IntegerLayer
from ..common.scheme import Scheme
from .chain import INPUT, chain
from .integer import IntegerNet
from .quant import levels, round_half_up, to_grid
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
        With the values of `spec`.
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
        weight = spec.weight.reshape(self.c_out, self.kernel, self.kernel, self.c_in)
        constants = {
            "whole_weight": weight.transpose(0, 3, 1, 2),
            "whole_bias": spec.bias,
            "factor": spec.multiplier * 2.0**-spec.shift,
            "whole_noise_bias": spec.noise_bias,
            "noise_factor": spec.noise_multiplier * 2.0**-spec.noise_shift,
        }
        for name, value in constants.items():
            self.register_buffer(name, torch.from_numpy(np.float64(value)), persistent=False)
        whole = torch.from_numpy(np.float32(spec.noise_weight))
        self.register_buffer("whole_noise_weight", whole, persistent=False)

    def exact(self, x: Tensor) -> Tensor:
        sums = F.conv2d(
            self._whole(x).double(), self.whole_weight, self.whole_bias, self.stride, self.padding
        )
        return self._real(sums, self.factor, True).to(x.dtype)

    def approximate(self, x: Tensor) -> Tensor:
        switches, through = self.switches, self.switches.gradient != "zero"
        # Rounded from whole numbers: of a value halfway between two levels, as one in 2**x_shift
        # is, division by a real step would decide at random.
        low, high = switches.input_range(bool(self.x_unsigned))
        level = levels(self._whole(x), 2.0**self.x_shift, low, high, through)
        low, high = switches.input_range(False)
        p = levels(self.project_levels(level), 2.0**self.p_shift, low, high, through)
        none = p.new_zeros(self.c_out)
        sums = self._product(p, self.whole_noise_weight, none).double()
        sums = sums + self.whole_noise_bias.view(-1, 1, 1)
        return self._real(sums, self.noise_factor, through).to(x.dtype)

    def _whole(self, x: Tensor) -> Tensor:
        """x in its 16-bit steps."""
        return levels(x, self.x_scale, *_INT16)

    def _real(self, sums: Tensor, factor: Tensor, through: bool) -> Tensor:
        """Sums (B, C, H, W), requantised to 16 bit, as real values."""
        whole = levels(sums * factor.view(-1, 1, 1), 1.0, *_INT16, through)
        return whole * self.z_scale


class _RoundedNormalize(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to normalised ones in the steps of `net`'s input."""

    def __init__(self, net: IntegerNet):
        super().__init__()
        self.scale = net.input_scale
        for name in ("mean", "std"):
            value = torch.from_numpy(getattr(net, name)).double().view(1, -1, 1, 1)
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        x = (x.double() - self.mean) / self.std
        return to_grid(x, self.scale, *_INT16).float()


class _RoundedAffine(nn.Module):
    """The batch-norm behind a sum, (B, C, H, W), as the affine of the layer `spec`."""

    def __init__(self, spec: IntegerLayer):
        super().__init__()
        self.scale, self.y_scale = spec.scale, spec.output_scale
        gain = torch.from_numpy(spec.gain * 2.0**-spec.gain_shift).view(-1, 1, 1)
        self.register_buffer("gain", gain)
        self.register_buffer("offset", torch.from_numpy(np.float64(spec.offset)).view(-1, 1, 1))

    def forward(self, s: Tensor) -> Tensor:
        whole = levels(s, self.scale, *_INT16).double()
        y = round_half_up(whole * self.gain) + self.offset
        return (y.clamp(*_INT16) * self.y_scale).to(s.dtype)


def fake_quantised(net: IntegerNet, seed: int) -> nn.Module:
    """Return the PyTorch network that rounds as `net` does, scheme ``dense``, in eval mode; `seed`
    is that of P.

    It takes images (B, 3, H, W) in [0, 1]; in float32 these are not quite multiples of 1/255, so
    give float64 where every last bit counts.
    """
    out = dequantise(net, seed)
    specs = {spec.layer.name: spec for spec in net.layers}
    scales = {name: spec.output_scale for name, spec in specs.items()} | {INPUT: net.input_scale}
    shifts = {name: spec.quantise_shift for name, spec in specs.items()}
    shifts[INPUT] = net.input_shift
    names = {id(module): name for name, module in out.named_modules()}
    out.normalize = _RoundedNormalize(net)
    for link in chain(out):
        spec = specs[link.name]
        layer = RoundedConv2d(link.module, spec, scales[link.source], shifts[link.source])
        out.set_submodule(link.name, layer)
        if link.norm is not None:
            out.set_submodule(names[id(link.norm)], _RoundedAffine(spec))
    for index, block in enumerate(out.blocks):
        last = [spec for name, spec in specs.items() if name.startswith(f"blocks.{index}.")][-1]
        # The sum is limited to int16, too; where a ReLU follows in the block, behind that.
        block.register_forward_hook(partial(_rounded, scale=last.scale))
    return out


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
