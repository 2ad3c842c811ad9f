"""SINAI in floating point: convolutions whose less important outputs are 4-bit approximations.

A converted layer computes z = W x + b exactly and z~ = W~ Q(P Q(x)) + b~ in 4 bit, selects
essential neurons by z~ and returns z' = m z + (1 - m) z~ (paper, Eq. 1 and 2). Batch-norm is folded
into W and b first, so that selection sees what the accelerator sees: the value before residual and
ReLU.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from ..common.errors import InputError
from ..common.projection import projected_depth, ternary
from ..common.scheme import Scheme
from .chain import chain
from .nets import ResNet
from .quant import WEIGHT_TOP, levels, to_grid, weight_scale

__all__ = [
    "SinaiConv2d",
    "convert",
    "fold_batch_norm",
    "layers_of",
    "ranks",
    "select",
    "set_scheme",
]


class SinaiConv2d(nn.Module):
    """A convolution with exact and approximate outputs, mixed by a noise scheme.

    z = W x + b. x^Q rounds x to 4 bit, one step for the tensor: [0, 15] where the input is never
    negative (after a ReLU), else [-8, 7]. p = clamp(round(P x^Q / 2**p_shift)) is requantised to
    [-8, 7], which the paper leaves out and a 4-bit multiplier needs. z~ = W~ p + b~ with W~ in
    [-7, 7] times one scale for each output channel. The mask is a constant for the gradient; the
    roundings pass it straight through.

    P is sqrt(3 / rows) {-1, 0, 1} with probabilities 1/6, 2/3, 1/6 (paper, section 3.2), fixed by
    `key`. W~ starts as W P^T. Until a calibration sets `x_step`, steps follow the largest
    magnitude of each batch.

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
    projection : {"patch", "tap"}
        `patch`: P is (k, d) over the im2col window, d index = tap * C_in + channel. `tap`: P is
        (k / taps, C_in), the same for every tap of the kernel.

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
        projection: str = "patch",
    ):
        super().__init__()
        kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
        square = isinstance(padding, tuple) and all(a == b for a, b in (kernel, stride, padding))
        if not square or conv.groups != 1 or conv.dilation != (1, 1):
            raise InputError(
                f"layer {name}: only square convolutions of one group and dilation 1 can be"
                f" converted, not {conv}"
            )
        if conv.padding_mode != "zeros" or padding[0] >= kernel[0]:
            raise InputError(
                f"layer {name}: padding must be zeros, fewer than the kernel's {kernel[0]}, not"
                f" {padding[0]} of {conv.padding_mode!r}"
            )
        if projection not in ("patch", "tap"):
            raise InputError(f"projection must be patch or tap, not {projection!r}")
        self.name, self.scheme, self.projection = name, scheme, projection
        self.kernel, self.stride, self.padding = kernel[0], stride[0], padding[0]
        self.c_in, self.c_out = conv.in_channels, conv.out_channels
        self.weight = nn.Parameter(conv.weight.detach().clone())  # (C_out, C_in, K, K)
        bias = torch.zeros(self.c_out) if conv.bias is None else conv.bias.detach().clone()
        self.bias = nn.Parameter(bias)

        depth = self.kernel**2 * self.c_in
        self.k = projected_depth(depth, self.c_out, self.kernel, projection)
        rows, columns = self.k, depth
        if projection == "tap":
            rows, columns = self.k // self.kernel**2, self.c_in
        matrix = torch.from_numpy(ternary(rows, columns, key)).float()
        self.p_scale = (3 / rows) ** 0.5
        self.register_buffer("matrix", matrix, persistent=False)
        start = self._flat(self.weight.detach())  # (C_out, d)
        if projection == "patch":
            start = start @ matrix.T
        else:
            start = (start.view(self.c_out, -1, self.c_in) @ matrix.T).flatten(1)
        start *= self.p_scale
        self.noise_weight = nn.Parameter(start)  # (C_out, k)
        self.noise_bias = nn.Parameter(bias.clone())
        self.register_buffer("noise_scale", weight_scale(start))
        self.register_buffer("x_step", torch.zeros(()))
        self.register_buffer("x_unsigned", torch.tensor(False))
        self.register_buffer("p_shift", torch.tensor(0))

    @property
    def calibrated(self) -> bool:
        """Whether the 4-bit steps are fixed, by :func:`sinai.model.distill.distill`."""
        return bool(self.x_step > 0)

    def forward(self, x: Tensor) -> Tensor:  # (B, C_in, H, W) -> (B, C_out, H', W')
        if self.scheme.dense:
            return self.exact(x)
        noise = self.approximate(x)
        if self.scheme.ratio == 1:
            return noise
        exact = self.exact(x)
        return torch.where(select(noise.detach(), self.scheme), exact, noise)

    def exact(self, x: Tensor) -> Tensor:
        """z = W x + b."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def approximate(self, x: Tensor) -> Tensor:
        """z~ = W~ p + b~ of (B, C_in, H, W), quantised as in the class's description."""
        p, step = self.project(x)
        weight = to_grid(self.noise_weight, self.noise_scale.unsqueeze(1), -WEIGHT_TOP, WEIGHT_TOP)
        if self.projection == "patch":
            return F.conv2d(p * step, weight[:, :, None, None], self.noise_bias)
        kernel = weight.view(self.c_out, self.kernel, self.kernel, -1).permute(0, 3, 1, 2)
        return F.conv2d(p * step, kernel, self.noise_bias, self.stride, self.padding)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return p, whole numbers in [-8, 7], and the value of one step of p.

        p is (B, k, H', W') for `patch` and (B, k / taps, H, W) for `tap`.
        """
        step, unsigned = self.x_step, bool(self.x_unsigned)
        if not self.calibrated:
            unsigned = bool(x.min() >= 0)
            step = x.detach().abs().amax().clamp(min=1e-12) / (15 if unsigned else 7)
        x = levels(x, step, *((0, 15) if unsigned else (-8, 7)))
        sums = self.project_levels(x)
        shift = self.p_shift
        if not self.calibrated:
            shift = torch.log2(sums.detach().abs().amax().clamp(min=7) / 7).ceil()
        p = levels(sums, 2.0**shift, -8, 7)
        return p, step * self.p_scale * 2.0**shift

    def project_levels(self, x: Tensor) -> Tensor:
        """P x without the factor of P: sums of the whole numbers x, exact in float32."""
        if self.projection == "patch":
            kernel = self.matrix.view(self.k, self.kernel, self.kernel, self.c_in)
            return F.conv2d(x, kernel.permute(0, 3, 1, 2), None, self.stride, self.padding)
        return F.conv2d(x, self.matrix[:, :, None, None])

    @property
    def p_step(self) -> float:
        """Value of one step of p, in a calibrated layer."""
        return float(self.x_step) * self.p_scale * 2.0 ** int(self.p_shift)

    def noise_levels(self) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
        """W~ as whole numbers (C_out, k) and the value of one accumulator step of z~ (C_out,)."""
        scale = self.noise_scale.unsqueeze(1)
        weight = levels(self.noise_weight.detach(), scale, -WEIGHT_TOP, WEIGHT_TOP)
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

    def _flat(self, weight: Tensor) -> Tensor:
        """(C, C_in, K, K) to (C, d), tap-major, then channel."""
        return weight.permute(0, 2, 3, 1).flatten(1)

    def extra_repr(self) -> str:
        return (
            f"{self.c_in}, {self.c_out}, kernel={self.kernel}, k={self.k},"
            f" projection={self.projection}, scheme={self.scheme}"
        )


def ranks(z: Tensor, group: int) -> Tensor:
    """Rank of every value in its group of `group` consecutive channels; z (B, C, H, W).

    0 is the largest; of equal values the lower channel ranks first. The last group may be partial.
    """
    batch, channels, height, width = z.shape
    z = F.pad(z, (0, 0, 0, 0, 0, -channels % group), value=-torch.inf)
    grouped = z.view(batch, -1, group, height, width)
    rank = torch.zeros_like(grouped, dtype=torch.int8 if group < 128 else torch.int32)
    for j in range(group):
        rival = grouped[:, :, j : j + 1]
        rank[:, :, :j] += rival > grouped[:, :, :j]
        rank[:, :, j + 1 :] += rival >= grouped[:, :, j + 1 :]
    return rank.view(batch, -1, height, width)[:, :channels]


def select(z: Tensor, scheme: Scheme) -> Tensor:
    """Essential neurons by the signed approximate value z (B, C, H, W), as a mask.

    Unstructured: the Top-K of each image over the whole layer, K = round((1 - r) n), compared with
    >= (ties add). Structured: the N largest of each group of consecutive channels at one position.
    """
    if scheme.dense:
        return torch.ones_like(z, dtype=torch.bool)
    if scheme.structured:
        return ranks(z, scheme.group) < scheme.essential_of_group
    flat = z.flatten(1)
    count = scheme.essential_count(flat.shape[1])
    if count == 0:
        return torch.zeros_like(z, dtype=torch.bool)
    theta = flat.kthvalue(flat.shape[1] - count + 1, dim=1).values
    return z >= theta.view(-1, 1, 1, 1)


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """Fold every BatchNorm2d that follows a Conv2d into it, in place, and return `net`.

    The batch-norm becomes an Identity. Pairs are found in the graph that torch.fx traces: the
    convolution's output must go to the batch-norm alone.

    Raises
    ------
    InputError
        If a batch-norm would remain, since the accelerator has no other place for it.
    """
    modules = dict(net.named_modules())
    norms = {n for n, m in modules.items() if isinstance(m, nn.BatchNorm2d)}
    if norms:
        graph = fx.Tracer().trace(net)
        for node in graph.nodes:
            source = node.args[0] if node.target in norms else None
            before = modules.get(str(getattr(source, "target", "")))
            if isinstance(before, nn.Conv2d) and len(source.users) == 1:
                _fold(before, modules[node.target])
                net.set_submodule(node.target, nn.Identity())
                norms.discard(node.target)
    if norms:
        raise InputError(
            f"network: batch-norm {sorted(norms)[0]} does not follow a convolution; only networks"
            " whose batch-norms do can be converted"
        )
    return net


def convert(
    module: nn.Module,
    scheme: str | Scheme = "dense",
    *,
    projection: str = "patch",
    seed: int = 0,
) -> nn.Module:
    """Replace every Conv2d of `module` by a :class:`SinaiConv2d`, in place, and return `module`.

    Batch-norms are folded first, so the module must be trained and is left in eval mode. Linear
    layers stay dense. :func:`set_scheme` changes the scheme later: one net serves all of them.

    Parameters
    ----------
    scheme : str or Scheme
        ``dense``, ``unstructured:RATIO`` or ``structured:Q:M``.
    projection : {"patch", "tap"}
        Form of P.
    seed : int
        Seed of every P, together with the layer's index: in the accelerator's order for the
        networks of :mod:`sinai.model.nets`, in order of registration for others.
    """
    scheme = scheme if isinstance(scheme, Scheme) else Scheme.parse(scheme)
    fold_batch_norm(module.eval())
    names = [name for name, m in module.named_modules() if isinstance(m, nn.Conv2d)]
    if isinstance(module, ResNet):
        names = [link.name for link in chain(module)]
    for index, name in enumerate(names):
        conv = module.get_submodule(name)
        layer = SinaiConv2d(conv, name, (seed, index), scheme=scheme, projection=projection)
        if not name:
            return layer.eval()
        module.set_submodule(name, layer.eval())
    return module


def layers_of(net: nn.Module) -> Iterator[SinaiConv2d]:
    """Yield the converted layers in the order of registration."""
    return (m for m in net.modules() if isinstance(m, SinaiConv2d))


def set_scheme(net: nn.Module, scheme: str | Scheme) -> nn.Module:
    """Give every converted layer of `net` this scheme and return `net`."""
    scheme = scheme if isinstance(scheme, Scheme) else Scheme.parse(scheme)
    for layer in layers_of(net):
        layer.scheme = scheme
    return net


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """BN(W x + b) = (g W) x + g (b - mean) + beta with g = gamma / sqrt(var + eps)."""
    with torch.no_grad():
        gain = torch.rsqrt(norm.running_var.double() + norm.eps)
        offset = -norm.running_mean.double() * gain
        if norm.affine:
            gain, offset = gain * norm.weight, offset * norm.weight + norm.bias
        if conv.bias is not None:
            offset = offset + gain * conv.bias
        conv.weight.mul_(gain.view(-1, 1, 1, 1).to(conv.weight.dtype))
        conv.bias = nn.Parameter(offset.to(conv.weight.dtype))
