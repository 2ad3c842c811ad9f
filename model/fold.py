"""Batch-norms folded into the convolutions before them."""

from __future__ import annotations

from collections import Counter

import torch
from torch import fx, nn

from ..common.errors import InputError

__all__ = ["fold_batch_norm"]


class _Tracer(fx.Tracer):
    """Looks into the networks, but not into convolutions and what became of them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (nn.Conv2d, nn.BatchNorm2d)) or not any(m.children())


def fold_batch_norm(net: nn.Module, strict: bool = True) -> nn.Module:
    """Fold every BatchNorm2d that follows a Conv2d into it, in place, and return `net`.

    The batch-norm becomes an Identity; its running statistics are used, whatever the mode. Pairs
    are found in the graph that torch.fx traces: the convolution's output must go to the batch-norm
    alone, both must run once only, and neither may be shared.

    Raises
    ------
    InputError
        If a batch-norm would remain and `strict` is set, since the accelerator has no other place
        for it; or if the network cannot be traced.
    """
    modules = dict(net.named_modules(remove_duplicate=False))
    names = Counter(id(module) for module in modules.values())
    norms = {n for n, m in modules.items() if isinstance(m, nn.BatchNorm2d)}
    if not norms:
        return net
    try:
        graph = _Tracer().trace(net)
    except Exception as error:  # control flow on data raises whatever it likes
        raise InputError(
            f"network: {type(net).__name__} cannot be traced to fold its batch-norms"
            f" ({str(error).splitlines()[0] if str(error) else type(error).__name__}); convert it"
            " with batch_norm='keep'"
        ) from None
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(id(modules[node.target]) for node in nodes)
    tied = Counter(
        id(m.weight) for m in {id(m): m for m in modules.values()}.values() if _has_weight(m)
    )
    for node in nodes:
        norm, source = modules[node.target], node.args[0] if node.args else None
        if node.target not in norms or getattr(source, "op", "") != "call_module":
            continue
        conv = modules[source.target]
        # A subclass may compute its weights, and what is folded into those would be lost.
        if type(conv) is not nn.Conv2d or len(source.users) != 1 or tied[id(conv.weight)] > 1:
            continue
        once = all(calls[id(m)] == names[id(m)] == 1 for m in (conv, norm))
        if once and norm.track_running_stats:
            _fold(conv, norm)
            net.set_submodule(node.target, nn.Identity())
            norms.discard(node.target)
    if norms and strict:
        raise InputError(
            f"network: batch-norm {sorted(norms)[0]} does not follow a convolution; only networks"
            " whose batch-norms do can be converted"
        )
    return net


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), nn.Parameter)


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
