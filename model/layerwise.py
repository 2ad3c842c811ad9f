"""Distillation by gradient descent, every layer on its own (paper, section 3.1, Eq. 1).

The problem of a layer is to bring z~ near the frozen network's z on the frozen network's own
inputs; no layer waits for another. So one forward pass of the dense network serves all layers, and
processes may share them out. `model/distill.py` solves the same problem in closed form.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import InputError
from .layers import SinaiLayer
from .sinai import layers_of
from .steps import set_steps, under_scheme
from .weights import check_kind, digest, read, steps_done, take_up, write

__all__ = ["Distillation", "distill_layers", "gather_layers"]

_STATE = ("noise_weight", "noise_bias", "noise_scale", "x_step", "x_unsigned", "p_shift")

_CALIBRATION = 256

_WHAT = "distillation"


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What decides a distillation besides network and data; defaults of the paper where it has one.

    Parameters
    ----------
    epochs, batch : int
        Passes over the images, and images a step.
    optimizer : {"sgd", "adamw"}
        SGD with momentum 0.9 (CIFAR), or AdamW (ImageNet).
    lr : float
        At the start; it falls to zero along half a cosine. The paper gives none. Of ``sgd`` it is
        relative to each layer's curvature: 2 (1 + momentum) is where steps diverge. Of ``adamw`` it
        is relative to the layer's largest weight of the start.
    rounding : {"during", "after"}
        W~ is rounded in every step, the gradient passing straight through, or once at the end.
    seed : int
        Of the order of the images.
    """

    epochs: int = 50
    batch: int = 128
    optimizer: str = "sgd"
    lr: float = 0.3
    rounding: str = "during"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise InputError(
                f"epochs and batch must be at least 1, not {self.epochs} and {self.batch}"
            )
        if self.optimizer not in ("sgd", "adamw"):
            raise InputError(f"optimizer must be sgd or adamw, not {self.optimizer!r}")
        if self.rounding not in ("during", "after"):
            raise InputError(f"rounding must be during or after, not {self.rounding!r}")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"lr must be above 0, not {self.lr}")


def distill_layers(
    net: nn.Module,
    images: Tensor,
    out: Path,
    recipe: Distillation | None = None,
    *,
    share: tuple[int, int] = (0, 1),
    images_digest: str = "",
    progress: Callable[[int, int, float], None] | None = None,
    save_every_s: float = 60.0,
) -> dict[str, float]:
    """Train W~ and b~ of a converted network's layers; W and b stay.

    `out` gets ``layers-I-of-N.pt``, from which an interrupted run goes on with the batches of an
    uninterrupted one, and which :func:`gather_layers` puts together.

    Parameters
    ----------
    images : uint8 (N, 3, H, W)
        Training images. Steps that are not fixed yet are set on the first 256.
    share : (int, int)
        I and N: this process trains layers I, I + N, I + 2 N and so on.
    images_digest : str, optional
        ``digest(images)`` (:func:`sinai.model.weights.digest`), if it is known already.
    progress : callable, optional
        Called as ``progress(step, steps, loss)``, the loss of all layers of the share: |z - z~|^2
        over channels, mean over batch and positions.

    Returns
    -------
    dict
        Mean of |z - z~|^2 over that of |z|^2 by layer of the share, on the first 256 images.

    Raises
    ------
    InputError
        If a number is out of range, the loss is not finite, or `out` holds the state of another
        recipe, network or images.
    """
    recipe = recipe or Distillation()
    part, parts = share
    layers = {layer.name: layer for layer in layers_of(net)}
    if not 0 <= part < parts or part >= len(layers):
        raise InputError(
            f"share must be I of N with 0 <= I < N and I below the {len(layers)} layers, not"
            f" {part} of {parts}"
        )
    batches = len(images) // recipe.batch
    if not batches:
        raise InputError(f"batch must be at most the {len(images)} images, not {recipe.batch}")
    identity = asdict(recipe) | {
        "share": list(share),
        "images": len(images),
        "images_digest": images_digest or digest(images),
        "network_digest": digest(net),
    }
    file = Path(out) / f"layers-{part}-of-{parts}.pt"
    state = take_up(file, _WHAT, identity)
    fixed = [k for k in layers.values() if k.switches.steps == "calibrated"]
    if any(not layer.calibrated for layer in fixed):
        set_steps(net, _batch(images[:_CALIBRATION], net))
    chosen = [layer for i, layer in enumerate(layers.values()) if i % parts == part]
    run = _Run(net, chosen, recipe, batches * recipe.epochs, _batch(images[: recipe.batch], net))
    file.parent.mkdir(parents=True, exist_ok=True)
    done = 0 if state is None else run.resume(file, state)
    saved = time.monotonic()
    for step in range(done, run.steps):
        epoch, index = divmod(step, batches)
        generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
        order = torch.randperm(len(images), generator=generator)
        chosen_images = order[index * recipe.batch : (index + 1) * recipe.batch]
        loss = run.step(step, _batch(images[chosen_images], net))
        if not math.isfinite(loss):
            file.unlink(missing_ok=True)  # it would be in the way of another lr
            raise InputError(
                f"distillation: at step {step + 1} of {run.steps} the loss is {loss} with lr"
                f" {recipe.lr:g}; give a smaller lr, such as {recipe.lr / 10:g}"
            )
        if time.monotonic() - saved >= save_every_s or step + 1 == run.steps:
            write(file, run.state(step + 1, json.dumps(identity)))
            saved = time.monotonic()
        if progress is not None:
            progress(step + 1, run.steps, loss)
    return run.errors(_batch(images[:_CALIBRATION], net))


@torch.no_grad()
def gather_layers(net: nn.Module, out: Path) -> nn.Module:
    """Set the layers of `net` to what the shares in folder `out` have come to, and return it.

    Raises
    ------
    InputError
        If a layer is missing or unfinished, or a file does not fit.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for file in sorted(Path(out).glob("layers-*-of-*.pt")):
        state = read(file, "distillation")
        check_kind(file, state, _WHAT)
        try:
            steps = state["steps"]
            done = steps_done(state, steps)
            found.update(state["layers"])
        except Exception as error:  # whatever the file holds
            raise _damaged(file, error) from None
        if done < steps:
            raise InputError(f"{file}: is at step {done} of {steps}; run its share to the end")
    for layer in layers_of(net):
        if layer.name not in found:
            raise InputError(
                f"{out}: layer {layer.name} is missing; run the share that it belongs to"
            )
        _load(layer, found[layer.name], out)
    return net


class _Run:
    """The layers of a share with their optimisers."""

    def __init__(
        self, net: nn.Module, layers: list[SinaiLayer], recipe: Distillation, steps: int, x: Tensor
    ):
        self.net, self.layers, self.recipe, self.steps = net, layers, recipe, steps
        self.loss = 0.0
        self.rates: dict[str, float] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        for layer in layers:
            own = [layer.noise_weight, layer.noise_bias]
            if recipe.optimizer == "sgd":
                made = torch.optim.SGD(own, lr=1.0, momentum=0.9)
            else:
                made = torch.optim.AdamW(own, lr=1.0)
                self.rates[layer.name] = recipe.lr * float(layer.noise_weight.detach().abs().max())
            self.optimizers[layer.name] = made
        if recipe.optimizer == "sgd":

            def measure(layer: SinaiLayer, args: tuple[Tensor, ...], z: Tensor) -> None:
                self.rates[layer.name] = recipe.lr / _curvature(layer, args[0])

            self._forward(x, measure)

    def step(self, step: int, x: Tensor) -> float:
        """One step of every layer on the network's input x; returns the sum of their losses."""
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self.rates[name] * fall
        self.loss = 0.0
        self._forward(x, self._descend)
        return self.loss

    def errors(self, x: Tensor) -> dict[str, float]:
        """Mean of |z - z~|^2 over that of |z|^2, with rounded W~, on the network's input x."""
        found: dict[str, float] = {}

        def visit(layer: SinaiLayer, args: tuple[Tensor, ...], z: Tensor) -> None:
            error = (layer.approximate(args[0]) - z).square().sum()
            found[layer.name] = float(error / z.square().sum())

        self._forward(x, visit)
        return found

    def state(self, step: int, identity: str) -> dict[str, Any]:
        """Everything to go on from."""
        return {
            "what": _WHAT,
            "identity": identity,
            "step": step,
            "steps": self.steps,
            "rates": self.rates,
            "layers": {
                layer.name: {name: getattr(layer, name).detach().clone() for name in _STATE}
                for layer in self.layers
            },
            "optimizers": {name: made.state_dict() for name, made in self.optimizers.items()},
        }

    def resume(self, file: Path, state: dict[str, Any]) -> int:
        """Take up the `state` of `file`; returns the steps that are done."""
        try:
            for layer in self.layers:
                _load(layer, state["layers"].get(layer.name, {}), file)
                self.optimizers[layer.name].load_state_dict(state["optimizers"][layer.name])
                self.rates[layer.name] = float(state["rates"][layer.name])
            return steps_done(state, self.steps)
        except InputError:
            raise
        except Exception as error:  # whatever the file holds
            raise _damaged(file, error) from None

    def _forward(self, x: Tensor, visit: Callable[..., None]) -> None:
        """Run the dense network in eval mode; ``visit(layer, inputs, z)`` sees each layer."""
        handles = [layer.register_forward_hook(visit) for layer in self.layers]
        modes = [(m, m.training) for m in self.net.modules()]
        try:
            with under_scheme(self.net, "dense"), torch.no_grad():
                self.net.eval()(x)
        finally:
            for module, mode in modes:
                module.training = mode
            for handle in handles:
                handle.remove()

    def _descend(self, layer: SinaiLayer, args: tuple[Tensor, ...], z: Tensor) -> None:
        optimizer, switches = self.optimizers[layer.name], layer.switches
        bits = 32 if self.recipe.rounding == "after" else switches.bits
        layer.switches = replace(switches, bits=bits, gradient="ste")
        with torch.enable_grad():
            error = (layer.approximate(args[0]) - z).square()
            loss = error.sum() / (error.numel() // layer.c_out)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        layer.switches = switches
        optimizer.step()
        layer.rescale()
        self.loss += loss.item()


def _damaged(file: Path, error: Exception) -> InputError:
    return InputError(
        f"{file}: is damaged ({type(error).__name__}); remove it, and its layers are distilled anew"
    )


def _curvature(layer: SinaiLayer, x: Tensor) -> float:
    """Largest curvature of the layer's loss, 2 times the largest eigenvalue of E[(p, 1) (p, 1)^T],
    by the power method; it is the same for every output channel."""
    p, step = layer.project(x)
    weight, bias = torch.ones_like(layer.noise_weight), torch.ones_like(layer.noise_bias)
    size = 1.0
    for _ in range(12):
        norm = (weight.square().sum() + bias.square().sum()).sqrt().clamp(min=1e-30)
        weight, bias = (v.div(norm).detach().requires_grad_() for v in (weight, bias))
        with torch.enable_grad():
            out = layer._product(p * step, weight, bias)
            value = out.square().sum() / (out.numel() // layer.c_out)
            weight, bias = torch.autograd.grad(value, (weight, bias))
        size = float((weight.square().sum() + bias.square().sum()).sqrt())
    return max(size, 1e-30)


@torch.no_grad()
def _load(layer: SinaiLayer, values: dict[str, Tensor], file: Path) -> None:
    for name in _STATE:
        target = getattr(layer, name)
        value = values.get(name) if isinstance(values, dict) else None
        if not isinstance(value, Tensor) or value.shape != target.shape:
            raise InputError(
                f"{file}: does not fit layer {layer.name} ({name}); give the folder of this"
                " network's distillation"
            )
        target.copy_(value)


def _batch(pixels: Tensor, net: nn.Module) -> Tensor:
    return pixels.to(next(net.parameters()).device).float().div_(255)
