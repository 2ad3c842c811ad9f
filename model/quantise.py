"""From a calibrated, converted network to the accelerator's integers, and back.

The multiplier of a channel is chosen first and the step of its weights follows from it, so that
multiplying and shifting adds no error of its own: only weights and biases are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from ..common.integer import IntegerLayer
from ..common.layer import Layer
from ..traces import networks
from .affine import affine, set_affine
from .calibrate import Scales
from .chain import INPUT, Link, chain
from .fit import multipliers
from .integer import IntegerNet
from .nets import PreActResNet, ResNet, build
from .sinai import SinaiConv2d, convert

__all__ = ["dequantise", "quantise"]

_INT16, _INT32 = (1 << 15) - 1, (1 << 31) - 1


def quantise(
    net: ResNet | PreActResNet,
    network: str,
    scales: Mapping[str, Scales],
    seed: int,
    weight_bits: int = 16,
) -> IntegerNet:
    """Return the integer network of `net`, converted with `seed` and calibrated to `scales`.

    Weights of the exact path are rounded to `weight_bits`, with a step for each output channel.
    """
    links = chain(net)
    projection = links[0].module.projection
    geometry = networks.layers(network, projection, seed)
    layers = []
    for link, layer in zip(links, geometry, strict=True):
        source = scales[link.source]
        layer = replace(layer, unsigned_input=source.unsigned)
        layers.append(_quantise_layer(link, layer, source, scales[link.name], weight_bits))
    return IntegerNet(
        network=network,
        layers=tuple(layers),
        input_scale=scales[INPUT].scale,
        input_shift=scales[INPUT].shift,
        mean=net.normalize.mean.flatten().numpy(),
        std=net.normalize.std.flatten().numpy(),
        classifier=net.classifier.weight.detach().numpy(),
        classifier_bias=net.classifier.bias.detach().numpy(),
    )


def dequantise(net: IntegerNet, seed: int) -> ResNet | PreActResNet:
    """Return the floating-point network with the values of `net`'s integers, scheme ``dense``."""
    projection = net.layers[0].layer.projection
    out = build(net.network, len(net.classifier)).eval()
    out = convert(out, projection=projection, seed=seed, batch_norm="fold")
    scales = {spec.layer.name: spec.output_scale for spec in net.layers} | {INPUT: net.input_scale}
    shifts = {spec.layer.name: spec.quantise_shift for spec in net.layers}
    shifts[INPUT] = net.input_shift
    with torch.no_grad():
        out.normalize.mean.copy_(torch.from_numpy(net.mean).view(1, -1, 1, 1))
        out.normalize.std.copy_(torch.from_numpy(net.std).view(1, -1, 1, 1))
        out.classifier.weight.copy_(torch.from_numpy(net.classifier))
        out.classifier.bias.copy_(torch.from_numpy(net.classifier_bias))
        for link, spec in zip(chain(out), net.layers, strict=True):
            layer: SinaiConv2d = link.module
            x_scale = scales[spec.source]
            step = spec.scale * 2.0**-spec.shift * spec.multiplier.astype(np.float64)
            weight = spec.weight * (step / x_scale)[:, None]
            layer.weight.copy_(
                torch.from_numpy(weight)
                .view(layer.c_out, layer.kernel, layer.kernel, layer.c_in)
                .permute(0, 3, 1, 2)
            )
            layer.bias.copy_(torch.from_numpy(spec.bias * step))
            layer.x_step.fill_(x_scale * 2.0 ** shifts[spec.source])
            layer.x_unsigned.fill_(spec.layer.unsigned_input)
            layer.p_shift.fill_(spec.matrix_shift)
            step = spec.scale * 2.0**-spec.noise_shift * spec.noise_multiplier.astype(np.float64)
            layer.set_noise(spec.noise_weight, step, spec.noise_bias * step)
            if link.norm is not None:
                gain = spec.gain * (spec.output_scale / spec.scale * 2.0**-spec.gain_shift)
                set_affine(link.norm, gain, spec.offset * spec.output_scale)
    return out


def _quantise_layer(
    link: Link, layer: Layer, source: Scales, target: Scales, weight_bits: int
) -> IntegerLayer:
    conv: SinaiConv2d = link.module
    weight = conv.weight.detach().double().permute(0, 2, 3, 1).flatten(1).numpy()
    bias = conv.bias.detach().double().numpy()
    # The step of an accumulator: large enough for the bits of the weights and of the bias.
    top = (1 << (weight_bits - 1)) - 1
    step = np.maximum(np.abs(weight).max(1) / top * source.scale, np.abs(bias) / _INT32)
    step = np.maximum(step, step.max() / (1 << 14)) * (1 + 1e-9)
    multiplier, shift = _at_least(step / target.sum_scale)
    step = multiplier * (target.sum_scale / 2.0**shift)
    noise_weight, noise_step = conv.noise_levels()
    noise_multiplier, noise_shift = multipliers(noise_step / target.sum_scale)
    exact_step = noise_multiplier * (target.sum_scale / 2.0**noise_shift)
    noise_bias = conv.noise_bias.detach().double().numpy()
    gain, offset, gain_shift = np.ones(layer.c_out, np.int16), np.zeros(layer.c_out), 0
    if link.norm is not None:
        gain, offset, gain_shift = affine(link.norm, target.sum_scale, target.scale)
    return IntegerLayer(
        layer=layer,
        source=link.source,
        residual=link.residual,
        weight=_round(weight * (source.scale / step)[:, None]).astype(np.int16),
        bias=_round(bias / step).astype(np.int32),
        multiplier=multiplier,
        shift=shift,
        matrix=conv.matrix.numpy().astype(np.int8),
        matrix_shift=int(conv.p_shift),
        noise_weight=noise_weight,
        noise_bias=_round(noise_bias / exact_step).astype(np.int32),
        noise_multiplier=noise_multiplier,
        noise_shift=noise_shift,
        gain=gain,
        offset=offset.astype(np.int16),
        gain_shift=gain_shift,
        relu=link.relu,
        quantise_shift=target.shift,
        unsigned=target.unsigned,
        scale=target.sum_scale,
        y_scale=None if link.norm is None else target.scale,
    )


def _at_least(ratio: np.ndarray) -> tuple[np.ndarray, int]:
    """Smallest int16 multipliers with multiplier / 2**shift >= ratio, and that shift."""
    shift = min(max(int(np.floor(np.log2(_INT16 / ratio.max()))), 0), 62)
    return np.clip(np.ceil(ratio * 2.0**shift), 1, _INT16).astype(np.int16), shift


def _round(x: np.ndarray) -> np.ndarray:
    return np.floor(x + 0.5)
