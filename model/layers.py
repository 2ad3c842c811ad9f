"""SINAI layers in floating point: outputs of which the less important are 4-bit approximations.

A layer computes z = W x + b exactly and z~ = W~ Q(P Q(x)) + b~ in 4 bit, selects essential neurons
by z~ and returns z' = m z + (1 - m) z~ (paper, Eq. 1 and 2, Algorithm 2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.projection import ternary
from ..common.scheme import Scheme
from .quant import levels, to_grid, weight_scale
from .selection import score_of, select
from .switches import Switches

__all__ = ["SinaiConv2d", "SinaiLayer", "SinaiLinear", "obstacle"]

#: Called with the layer, z, z~ and z' in every forward pass.
Observer = Callable[["SinaiLayer", Tensor, Tensor, Tensor], None]


def obstacle(module: nn.Module) -> str:
    """Why a Conv2d or Linear cannot be converted, as the rest of a sentence; empty if it can."""
    kind = type(module).__name__
    if type(module) not in (nn.Conv2d, nn.Linear):
        return f"only plain Conv2d and Linear layers can be converted, not a {kind}"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return f"a {kind} with hooks would lose them; remove them first"
    if isinstance(module, nn.Linear):
        return ""
    kernel, stride, padding = module.kernel_size, module.stride, _padding(module)
    square = padding is not None and all(a == b for a, b in (kernel, stride, padding))
    if not square or module.groups != 1 or module.dilation != (1, 1):
        return (
            f"only square convolutions of one group and dilation 1 can be converted, not {module}"
        )
    if module.padding_mode != "zeros" or padding[0] >= kernel[0]:
        return (
            f"padding must be zeros, fewer than the kernel's {kernel[0]}, not {padding[0]} of"
            f" {module.padding_mode!r}"
        )
    return ""


def _padding(conv: nn.Conv2d) -> tuple[int, ...] | None:
    """Zeros on each side, None if the two sides differ."""
    if conv.padding == "valid":
        return (0, 0)
    if conv.padding == "same":
        odd = all(side % 2 for side in conv.kernel_size)
        return tuple(side // 2 for side in conv.kernel_size) if odd else None
    return conv.padding


class SinaiLayer(nn.Module, ABC):
    """What the two kinds of layer share; :class:`Switches` says how each step works.

    z = W x + b. x^Q rounds x to 4 bit, one step for the tensor: [0, 15] where the input is never
    negative (after a ReLU), else [-8, 7]. p = clamp(round(P x^Q / 2**p_shift)) is requantised to
    [-8, 7]. z~ = W~ p + b~ with W~ in [-7, 7] times one scale for each output channel.

    P is sqrt(3 / rows) {-1, 0, 1} with probabilities 1/6, 2/3, 1/6 (paper, section 3.2), fixed by
    `key` and not part of the state. W~ starts as W P^T. Until a calibration sets `x_step`, steps
    follow the largest magnitude of each batch. W and b are the parameters of `module` itself.

    Attributes
    ----------
    observer : callable or None
        Called as ``observer(layer, z, z~, z')`` in every forward pass, in every scheme.
    """

    kernel, stride, padding = 1, 1, 0

    def __init__(
        self,
        module: nn.Conv2d | nn.Linear,
        name: str,
        key: tuple[int, int],
        scheme: Scheme,
        switches: Switches,
    ):
        super().__init__()
        if reason := obstacle(module):
            raise InputError(f"layer {name}: {reason}")
        self.name, self.key, self.scheme, self.switches = name, key, scheme, switches
        self.observer: Observer | None = None
        if isinstance(module, nn.Conv2d):
            self.kernel, self.stride = module.kernel_size[0], module.stride[0]
            self.padding = _padding(module)[0]
        self.c_out, self.c_in = module.weight.shape[:2]
        self.weight = module.weight  # (C_out, C_in, K, K) or (C_out, C_in)
        bias = module.bias
        self.bias = nn.Parameter(self.weight.new_zeros(self.c_out)) if bias is None else bias

        depth = self.kernel**2 * self.c_in
        self.k = switches.depth(depth, self.c_out, self.kernel)
        rows, columns = self.k, depth
        if self.projection == "tap":
            rows, columns = self.k // self.kernel**2, self.c_in
        self.identity = switches.identity and rows == columns
        if self.identity:
            matrix, self.p_scale = torch.eye(rows), 1.0
        else:
            matrix = torch.from_numpy(ternary(rows, columns, key)).float()
            self.p_scale = (3 / rows) ** 0.5
        self.register_buffer("matrix", matrix.to(self.weight), persistent=False)
        start = self._start()  # (C_out, k)
        self.noise_weight = nn.Parameter(start)
        self.noise_bias = nn.Parameter(self.bias.detach().clone())
        self.register_buffer("noise_scale", torch.ones_like(start[:, 0]))
        self.rescale()
        self.register_buffer("x_step", torch.zeros_like(start[0, 0]))
        self.register_buffer("x_unsigned", torch.tensor(False, device=start.device))
        self.register_buffer("p_shift", torch.tensor(0, device=start.device))
        self.register_buffer("theta", torch.full_like(start[0, 0], torch.nan))
        self.train(module.training)

    @property
    def projection(self) -> str:
        """Form of P: ``patch`` or ``tap``."""
        return self.switches.projection

    @property
    def calibrated(self) -> bool:
        """Whether the 4-bit steps are fixed."""
        return self.switches.steps == "calibrated" and bool(self.x_step > 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.observer is None:
            if self.scheme.dense:
                return self.exact(x)
            noise = self.approximate(x)
            if self.scheme.ratio == 1:
                return self._active(noise.to(x.dtype), noisy=True)
            return self.mix(self.exact(x), noise)
        exact, noise = self.exact(x), self.approximate(x)
        mixed = exact if self.scheme.dense else self.mix(exact, noise)
        self.observer(self, exact, noise, mixed)
        return mixed

    def mix(self, exact: Tensor, noise: Tensor) -> Tensor:
        """z' = m z + (1 - m) z~, with a ReLU on either if the switch says so."""
        mask = self.mask(noise)
        noise = self._active(noise.to(exact.dtype), noisy=True)
        return torch.where(mask, self._active(exact, noisy=False), noise)

    @torch.no_grad()
    def mask(self, noise: Tensor) -> Tensor:
        """Essential neurons by z~, in its shape."""
        switches = self.switches
        static = switches.threshold == "static"
        unset = static and not self.scheme.structured and bool(self.theta.isnan())
        if unset and not self.scheme.dense:
            raise InputError(
                f"layer {self.name}: threshold static has no theta for {self.scheme}; call"
                " sinai.model.steps.set_thresholds after set_scheme"
            )
        score = score_of(self.channel_first(noise.detach()), switches.score)
        mask = select(
            score, self.scheme, threshold=switches.threshold, axis=switches.axis, theta=self.theta
        )
        return self._back(mask, noise)

    def _active(self, z: Tensor, noisy: bool) -> Tensor:
        if noisy and self.switches.gradient == "detach":
            z = z.detach()
        wanted = ("both",) if noisy else ("both", "essential")
        return torch.relu(z) if self.switches.activation in wanted else z

    @abstractmethod
    def exact(self, x: Tensor) -> Tensor:
        """z = W x + b."""

    @abstractmethod
    def channel_first(self, z: Tensor) -> Tensor:
        """Outputs as (B, C, ...)."""

    @abstractmethod
    def _back(self, mask: Tensor, like: Tensor) -> Tensor:
        """The inverse of :meth:`channel_first` for outputs of the shape of `like`."""

    def approximate(self, x: Tensor) -> Tensor:
        """z~ = W~ p + b~, quantised as in the class's description; at least in float32."""
        with torch.autocast(x.device.type, enabled=False):
            p, step = self.project(x)
            return self._product(p * step, *self.noise(step))

    def noise(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """W~ (C_out, k) and b~ (C_out,) as they enter the product, `step` being that of p."""
        switches, through = self.switches, self.switches.gradient != "zero"
        weight, bias = self._wide(self.noise_weight), self._wide(self.noise_bias)
        scale, top = self._wide(self.noise_scale), switches.weight_top
        if switches.bits < 32:
            weight = to_grid(weight, scale.unsqueeze(1), -top, top, through)
            if switches.bias == "int4":
                unit = scale * step
                room = (bias.detach().abs() / (top * unit)).clamp(min=1)
                bias = to_grid(bias, unit * 2 ** torch.log2(room).ceil(), -top, top, through)
        return weight, bias

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return p, whole numbers in [-8, 7], and the value of one step of p.

        p has k channels for `patch` and, before the taps are gathered, k / taps for `tap`.
        """
        x, switches = self._wide(x), self.switches
        if switches.input_bits == 32:
            return self.project_levels(x), x.new_tensor(self.p_scale)
        through = switches.gradient != "zero"
        step, unsigned = self._wide(self.x_step), bool(self.x_unsigned)
        fixed = self.calibrated
        if not fixed:
            unsigned = bool(x.min() >= 0)
            top = switches.input_range(unsigned)[1]
            step = x.detach().abs().amax().clamp(min=1e-12) / top
        sums = self.project_levels(levels(x, step, *switches.input_range(unsigned), through))
        if not switches.requantise:
            return sums, step * self.p_scale
        low, high = switches.input_range(False)
        shift = self.p_shift
        if not fixed:
            shift = torch.log2(sums.detach().abs().amax().clamp(min=high) / high).ceil()
        return levels(sums, 2.0**shift, low, high, through), step * self.p_scale * 2.0**shift

    @abstractmethod
    def project_levels(self, x: Tensor) -> Tensor:
        """P x without the factor of P: sums of the whole numbers x, exact in float32."""

    @abstractmethod
    def _product(self, p: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """W~ p + b~ of the quantised weights (C_out, k) and biases (C_out,)."""

    @property
    def p_step(self) -> float:
        """Value of one step of p, in a calibrated layer."""
        return float(self.x_step) * self.p_scale * 2.0 ** float(self.p_shift)

    @torch.no_grad()
    def reproject(self, key: tuple[int, int]) -> None:
        """Draw P anew, fixed by `key`, and start W~ and b~ from W and b again."""
        self.key = key
        if not self.identity:
            self.matrix.copy_(torch.from_numpy(ternary(*self.matrix.shape, key)))
        self.noise_weight.copy_(self._start())
        self.noise_bias.copy_(self.bias)
        self.rescale()

    @torch.no_grad()
    def rescale(self) -> None:
        """Set the steps of W~ from its largest magnitudes."""
        whole = self.switches.weight_scale == "tensor"
        scale = weight_scale(self.noise_weight, self.switches.weight_top, whole)
        self.noise_scale.copy_(scale)

    def noise_levels(self) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
        """W~ as whole numbers (C_out, k) and the value of one accumulator step of z~ (C_out,)."""
        scale, top = self.noise_scale.unsqueeze(1), self.switches.weight_top
        weight = levels(self.noise_weight.detach(), scale, -top, top)
        step = self.noise_scale.double().numpy() * self.p_step
        return weight.numpy().astype(np.int8), step

    @torch.no_grad()
    def set_noise(
        self, weight: NDArray[np.int8], step: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> None:
        """Set W~ and b~: the inverse of :meth:`noise_levels`, in a calibrated layer."""
        scale = torch.from_numpy(step / self.p_step)
        self.noise_scale.copy_(scale)
        self.noise_weight.copy_(torch.from_numpy(weight) * scale.unsqueeze(1))
        self.noise_bias.copy_(torch.from_numpy(bias))

    def _start(self) -> Tensor:
        """W P^T, (C_out, k)."""
        weight = self._wide(self.weight.detach()).reshape(self.c_out, self.c_in, -1)
        weight = weight.transpose(1, 2)  # (C_out, taps, C_in): tap-major, then channel
        matrix = self._wide(self.matrix)
        if self.projection == "patch":
            start = weight.flatten(1) @ matrix.T
        else:
            start = (weight @ matrix.T).flatten(1)
        return (start * self.p_scale).to(self.weight.dtype)

    @staticmethod
    def _wide(x: Tensor) -> Tensor:
        """At least float32, so that sums of whole numbers are exact."""
        return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

    def extra_repr(self) -> str:
        return (
            f"{self.c_in}, {self.c_out}, kernel={self.kernel}, k={self.k},"
            f" projection={self.projection}, scheme={self.scheme}"
        )


class SinaiConv2d(SinaiLayer):
    """A SINAI layer in place of a Conv2d: (B, C_in, H, W) -> (B, C_out, H', W').

    Parameters
    ----------
    conv : Conv2d
        Convolution to replace: square kernel, one group, dilation 1, zero-padding.
    name : str
        Name of the layer, for messages.
    key : (int, int)
        Seed of the network and index of the layer in order of execution; decides P.
    scheme : Scheme
        Which neurons stay exact.
    switches : Switches
        How it computes. d index of P = tap * C_in + channel.

    Raises
    ------
    InputError
        If the convolution is of another kind.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        name: str,
        key: tuple[int, int],
        *,
        scheme: Scheme,
        switches: Switches | None = None,
    ):
        super().__init__(conv, name, key, scheme, switches or Switches())

    def exact(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def approximate(self, x: Tensor) -> Tensor:
        return super().approximate(x) if x.dim() == 4 else super().approximate(x[None])[0]

    def channel_first(self, z: Tensor) -> Tensor:
        return z if z.dim() == 4 else z[None]

    def _back(self, mask: Tensor, like: Tensor) -> Tensor:
        return mask.view(like.shape)

    def project_levels(self, x: Tensor) -> Tensor:
        matrix = self.matrix.to(x.dtype)
        if self.projection == "patch":
            kernel = matrix.view(self.k, self.kernel, self.kernel, self.c_in)
            return F.conv2d(x, kernel.permute(0, 3, 1, 2), None, self.stride, self.padding)
        return F.conv2d(x, matrix[:, :, None, None])

    def _product(self, p: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.projection == "patch":
            return F.conv2d(p, weight[:, :, None, None], bias)
        kernel = weight.view(self.c_out, self.kernel, self.kernel, -1).permute(0, 3, 1, 2)
        return F.conv2d(p, kernel, bias, self.stride, self.padding)


class SinaiLinear(SinaiLayer):
    """A SINAI layer in place of a Linear: (..., C_in) -> (..., C_out).

    A 1x1 convolution over tokens: of (B, T, C), a sample is the first axis, its positions are the
    axes between; (B, C) has one position. Parameters as in :class:`SinaiConv2d`.
    """

    def __init__(
        self,
        linear: nn.Linear,
        name: str,
        key: tuple[int, int],
        *,
        scheme: Scheme,
        switches: Switches | None = None,
    ):
        super().__init__(linear, name, key, scheme, switches or Switches())

    def exact(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def channel_first(self, z: Tensor) -> Tensor:
        samples = len(z) if z.dim() > 1 else 1
        return z.reshape(samples, -1, self.c_out).transpose(1, 2)  # (B, C, T)

    def _back(self, mask: Tensor, like: Tensor) -> Tensor:
        return mask.transpose(1, 2).reshape(like.shape)

    def project_levels(self, x: Tensor) -> Tensor:
        return F.linear(x, self.matrix.to(x.dtype))

    def _product(self, p: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(p, weight, bias)
