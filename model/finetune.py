"""Fine-tuning of a converted network: Algorithm 1 of the paper.

Loss = loss of the task + 0.1 L_MSE; W, b, W~ and b~ learn together, the roundings pass gradients
straight through, and the mask is a constant. Batch-norms keep their statistics.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.scheme import Scheme
from .attacks import Settings, attack
from .layers import SinaiLayer
from .recipes import Recipe
from .runs import count, here, of_json
from .sinai import layers_of, set_scheme
from .steps import observed, under_scheme
from .weights import ELSEWHERE, digest, save_converted, steps_done, take_up, write

__all__ = ["FineTuning", "adversary", "check_folder", "finetune", "mse"]

_WHAT = "fine-tuning"

#: ``attack(net, images, labels)`` returns images in [0, 1] of the same shape.
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]

_CHOICES = {
    "forward": ("mixed", "accurate"),
    "reduction": ("element", "mean", "sum"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("constant", "cosine"),
}


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What decides a fine-tuning besides network, data and attack.

    Parameters
    ----------
    schemes : tuple of str
        Taken in turn, one a step: one network for all of them. One scheme alone gives one network
        each. The paper does not say which.
    epochs, batch : int
        Passes over the images (paper: 1, and 10 on ImageNet), and images a step.
    optimizer, lr, momentum, weight_decay
        ``sgd`` or ``adamw``, and their numbers. The paper gives none; assumed.
    schedule : {"constant", "cosine"}
        Learning rate: `lr` throughout, or falling from it to zero along half a cosine.
    mse_weight : float
        Weight of L_MSE; 0.1 in the paper.
    reduction : {"element", "mean", "sum"}
        L_MSE of a layer, added up over layers: mean of (z - z~)^2 over everything; |z - z~|^2 over
        channels, mean over batch and positions; or mean over the batch alone, as Eq. 1 is written.
        The last two drown the task's loss: on ResNet-18 "mean" is 655 beside a cross-entropy of
        1.1, and a network so tuned is right on 19 % of 500 test images, of 77 % (docs/model.md).
    forward : {"mixed", "accurate"}
        What the loss of the task sees: z' of every layer, or z (Algorithm 1, line 4).
    seed : int
        Of the order of the images and of the attack.
    """

    schemes: tuple[str, ...] = ("unstructured:0.9", "structured:7:8")
    epochs: int = 1
    batch: int = 128
    optimizer: str = "sgd"
    lr: float = 0.01
    schedule: str = "constant"
    momentum: float = 0.9
    weight_decay: float = 0.0
    mse_weight: float = 0.1
    reduction: str = "element"
    forward: str = "mixed"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} must be {', '.join(known[:-1])} or {known[-1]}, not"
                    f" {getattr(self, name)!r}"
                )
        finite = 0 < self.lr < math.inf and 0 <= self.mse_weight < math.inf
        if self.epochs < 1 or self.batch < 1 or not finite:
            raise InputError(
                "epochs and batch must be at least 1, lr above 0 and mse_weight at least 0, both"
                f" finite, not {self.epochs}, {self.batch}, {self.lr} and {self.mse_weight}"
            )
        if not self.schemes or any(Scheme.parse(scheme).dense for scheme in self.schemes):
            raise InputError(
                f"schemes must be one or more with noise, not {', '.join(self.schemes) or 'none'}"
            )


def finetune(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    out: Path,
    recipe: FineTuning | None = None,
    *,
    attack: Attack | None = None,
    network: str = "",
    told: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    images_digest: str = "",
    progress: Callable[[int, int, float, float], None] | None = None,
    save_every_s: float = 60.0,
) -> nn.Module:
    """Fine-tune a converted network in place and return it in eval mode, scheme ``dense``.

    `out` gets ``state.pt``, from which an interrupted run goes on with the same batches, and at the
    end ``net.pt`` (:func:`sinai.model.weights.load_converted`). The record of that is `training`
    with one more entry in the list ``finetuning``: recipe, what is `told`, digests of images and
    labels, batch_norm and projection_seed of the layers, and ``runs``: how many steps ran on which
    device and versions. A run whose loss or weights are not finite ends and removes its state.

    Parameters
    ----------
    images, labels : uint8 (N, 3, H, W) and int64 (N,)
        Training images.
    attack : callable, optional
        Makes adversarial images of a batch, with the mixed forward pass; without it the clean ones
        are used.
    network : str
        Name in :data:`sinai.model.nets.MODELS`, for ``net.pt``.
    told : mapping, optional
        What else there is to say of it, as JSON holds it: names of data and attack, distillation,
        source. An interrupted run goes on only with the same.
    training : mapping, optional
        Record of what was done to the network before.
    images_digest : str, optional
        ``digest(images)`` (:func:`sinai.model.weights.digest`), if it is known already.
    progress : callable, optional
        Called as ``progress(step, steps, loss of the task, L_MSE)``.

    Raises
    ------
    InputError
        If a number is out of range, the loss is not finite, or `out` holds the state of another
        recipe, network or images.
    """
    recipe = recipe or FineTuning()
    batches = len(images) // recipe.batch
    if not batches:
        raise InputError(f"batch must be at most the {len(images)} images, not {recipe.batch}")
    if not any(True for _ in layers_of(net)):
        raise InputError(f"network: {type(net).__name__} has no SINAI layer; convert it first")
    net.eval()
    optimizer = _optimizer(net, recipe)
    steps = batches * recipe.epochs
    identity = _identity(recipe, labels, told or {}, images_digest or digest(images))
    start, file = digest(net), Path(out) / "state.pt"
    state = take_up(file, _WHAT, identity)
    done, runs = (0, []) if state is None else _restore(file, state, start, net, optimizer, steps)
    file.parent.mkdir(parents=True, exist_ok=True)
    device, saved = next(net.parameters()).device, time.monotonic()
    ours = here(device)
    for step in range(done, steps):
        epoch, index = divmod(step, batches)
        generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
        order = torch.randperm(len(images), generator=generator)
        chosen = order[index * recipe.batch : (index + 1) * recipe.batch]
        x = images[chosen].to(device).float().div_(255)
        y = labels[chosen].to(device)
        set_scheme(net, recipe.schemes[step % len(recipe.schemes)])
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed * 100_003 + step)
            if attack is not None:
                x = attack(net, x, y).detach()
            task, error = _losses(net, x, y, recipe)
        loss = task + recipe.mse_weight * error
        if not loss.isfinite():
            raise _diverged(file, step + 1, steps, recipe, f"the loss is {loss.item()}")
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * _rate(step / steps, recipe)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        count(runs, ours)
        if time.monotonic() - saved >= save_every_s or step + 1 == steps:
            if not all(p.isfinite().all() for p in net.parameters()):
                raise _diverged(file, step + 1, steps, recipe, "weights are not finite")
            state = {"what": _WHAT, "identity": json.dumps(identity), "start": start}
            state |= {"step": step + 1, "runs": json.dumps(runs), "net": net.state_dict()}
            write(file, state | {"optimizer": optimizer.state_dict()})
            saved = time.monotonic()
        if progress is not None:
            progress(step + 1, steps, task.item(), error.item())
    set_scheme(net, "dense")
    first = next(layers_of(net))
    entry = identity | {"batch_norm": first.switches.batch_norm, "projection_seed": first.key[0]}
    before = dict(training or {})
    record = before | {
        "finetuning": [*before.get("finetuning", []), entry | {"runs": runs}],
        "one_net": len(recipe.schemes) > 1,
    }
    save_converted(net, file.with_name("net.pt"), network=network, record=record)
    return net


def check_folder(
    out: Path, recipe: FineTuning, labels: Tensor, told: Mapping[str, Any], images_digest: str
) -> None:
    """Raise InputError if `out` holds the state of anything but the fine-tuning that
    :func:`finetune` does with these arguments."""
    take_up(Path(out) / "state.pt", _WHAT, _identity(recipe, labels, told, images_digest))


def adversary(recipe: Recipe) -> tuple[Attack | None, str]:
    """Return what fine-tuning attacks with, and its name: PGD by the numbers of the recipe that
    trained the network, with straight-through gradients; None if that had no adversary."""
    if recipe.adversary == "none":
        return None, ""
    settings = Settings(eps=recipe.eps, step=recipe.attack_step, steps=recipe.attack_steps)

    def make(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seed = int(torch.randint(1 << 31, ()))  # of the step's own draws
        return attack(net, x, y, "pgd", settings=settings, seed=seed)

    numbers = f"eps {recipe.eps:.4g}, {recipe.attack_steps} steps of {recipe.attack_step:.4g}"
    return make, f"pgd, {numbers}"


def mse(z: Tensor, noise: Tensor, layer: SinaiLayer, reduction: str) -> Tensor:
    """L_MSE of one layer (paper, Eq. 1), reduced as in :class:`FineTuning`."""
    error = (z - noise.to(z.dtype)).square()
    if reduction == "element":
        return error.mean()
    samples = len(layer.channel_first(z))
    return error.sum() / (samples if reduction == "sum" else error.numel() // layer.c_out)


def _identity(
    recipe: FineTuning, labels: Tensor, told: Mapping[str, Any], images_digest: str
) -> dict[str, Any]:
    """What decides a fine-tuning besides the network it starts from."""
    data = {"images": len(labels), "images_digest": images_digest, "labels_digest": digest(labels)}
    return {**asdict(recipe), **told, **data}


def _restore(
    file: Path,
    state: dict[str, Any],
    start: str,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
) -> tuple[int, list[dict[str, Any]]]:
    """Take up the `state` of `file`; returns how many of `steps` are done, and where they ran.
    `start` is the digest of the network before its first step."""
    if state.get("start") != start:
        raise InputError(f"{file}: holds the state of another network; {ELSEWHERE}")
    try:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        return steps_done(state, steps), of_json(state["runs"])
    except Exception as error:  # whatever the file holds
        raise InputError(
            f"{file}: is damaged ({type(error).__name__}); remove it, and fine-tuning begins anew"
        ) from None


def _diverged(file: Path, step: int, steps: int, recipe: FineTuning, what: str) -> InputError:
    """What ends the run; `file`, its state, is removed: it would be in the way of another lr."""
    file.unlink(missing_ok=True)
    remedy = f"give a smaller lr, such as {recipe.lr / 10:g}"
    if recipe.reduction != "element":
        remedy += f", or reduction element instead of {recipe.reduction}"
    return InputError(
        f"fine-tuning: at step {step} of {steps} {what} with lr {recipe.lr:g}; {remedy} (and"
        " --resume, which keeps what is distilled)"
    )


def _losses(net: nn.Module, x: Tensor, y: Tensor, recipe: FineTuning) -> tuple[Tensor, Tensor]:
    errors: list[Tensor] = []

    def see(layer: SinaiLayer, z: Tensor, noise: Tensor, mixed: Tensor) -> None:
        errors.append(mse(z, noise, layer, recipe.reduction))

    accurate = under_scheme(net, "dense") if recipe.forward == "accurate" else nullcontext()
    with observed(net, see), accurate:
        task = F.cross_entropy(net(x), y)
    return task, torch.stack(errors).sum()


def _rate(done: float, recipe: FineTuning) -> float:
    """Learning rate as a share of its first, after the share `done` of the steps."""
    return 1.0 if recipe.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * done))


def _optimizer(net: nn.Module, recipe: FineTuning) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(net.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        net.parameters(),
        recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
