"""Training of a network, clean or adversarial, resumable, with the record of how it was made.

SGD with Nesterov momentum. :data:`sinai.model.recipes.RECIPES` has a schedule for small budgets
(one cycle, Smith and Topin 2018, with a resolution that may grow), one for adversarial training on
small budgets, and the paper's.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import InputError
from . import nets
from .adversary import perturb
from .baselines import defend, penalty
from .data import Images
from .device import pick
from .evaluate import spread
from .recipes import Recipe
from .runs import count, here, of_json
from .weights import ELSEWHERE, check_kind, digest, read, steps_done, write

__all__ = ["Recipe", "accuracy", "robust_accuracy", "train"]

#: On a GPU progress is told once in so many steps: each time the processor waits for the GPU.
_TELL_EVERY = 10

_WHAT = "training"

#: What a record says of the data and the steps.
_MADE = ("data", "images", "images_digest", "labels_digest", "steps")


def train(
    recipe: Recipe,
    data: Images,
    out: Path,
    *,
    progress: Callable[[int, int, float, float], None] | None = None,
    save_every_s: float = 60.0,
    device: str = "auto",
) -> nn.Module:
    """Train and return a network; `out` holds the state to resume from and the record.

    `out/state.pt` is replaced at most every `save_every_s` seconds; when it exists, training goes
    on from it and gives the same batches as an uninterrupted run. One that has ended is returned
    as it is, whatever the images, which must have as many classes, and its record says what it was
    trained on, and under ``runs`` how many steps ran on which device and versions. `progress`, when
    given, is called as ``progress(step, steps, loss, accuracy)``, the accuracy on the images
    trained on. `device` is ``cpu``, ``cuda`` or ``auto``, which takes CUDA if there is one; the
    network comes back on the CPU.

    Raises
    ------
    InputError
        If `out` holds the state of another recipe, of another number of classes or, unfinished, of
        other images, or there are fewer images than a batch has.
    """
    device = pick(device)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(recipe.seed)
    net = defend(nets.build(recipe.model, len(data.classes)), recipe.defence, seed=recipe.seed)
    net = net.to(device, memory_format=torch.channels_last)
    run = _Run(net, _optimizer(net, recipe), recipe, out / "state.pt")
    if run.file.exists():
        run.restore()
    if not run.ended:
        _descend(run, data, device, progress, save_every_s)
    net.eval()
    record = {"recipe": asdict(recipe)} | run.made
    record |= {"runs": run.runs, "wall_s": round(run.spent_s, 1)}
    if run.best is not None:
        record["validation"] = {"robust_accuracy": run.best["score"], "epoch": run.best["epoch"]}
    (out / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    return net.cpu()


def _descend(
    run: _Run,
    data: Images,
    device: str,
    progress: Callable[[int, int, float, float], None] | None,
    save_every_s: float,
) -> None:
    """Do the steps that are left."""
    net, optimizer, recipe = run.net, run.optimizer, run.recipe
    held, kept = _split(data, recipe.validation)
    per_epoch = len(kept) // recipe.batch
    if not per_epoch:
        raise InputError(
            f"batch must be at most the {len(kept)} images of {data.name}, not {recipe.batch}"
        )
    images, labels = torch.from_numpy(kept.images), torch.from_numpy(kept.labels)
    steps = per_epoch * len(recipe.resolutions)
    run.begin(
        {
            "data": data.name,
            "images": len(kept),
            "images_digest": digest(images),
            "labels_digest": digest(labels),
            "steps": steps,
        }
    )
    run.file.parent.mkdir(parents=True, exist_ok=True)
    ours = here(device)
    started = saved = time.monotonic()
    before_s = run.spent_s
    for step in range(run.step, steps):
        net.train()
        epoch, index = divmod(step, per_epoch)
        if step == run.step or not index:
            batches = _batches(images, labels, recipe, epoch, index, device)
        x, y = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = recipe.peak_lr * rate(step / steps, recipe)
        torch.manual_seed(recipe.seed * 100_003 + step)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=recipe.bfloat16):
            logits = net(perturb(net, x, y, recipe))
            loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
            loss = loss + penalty(net, epoch + 1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        run.step = step + 1
        count(run.runs, ours)
        if held is not None and index + 1 == per_epoch:
            run.judge(robust_accuracy(net, held, recipe), epoch)
        if progress is not None and (device == "cpu" or not run.step % _TELL_EVERY):
            progress(run.step, steps, loss.item(), (logits.argmax(1) == y).float().mean().item())
        if time.monotonic() - saved > save_every_s or run.ended:
            saved = time.monotonic()
            run.spent_s = before_s + saved - started
            if run.ended:
                run.settle()
            run.save()


@dataclass
class _Run:
    """What changes while a network trains; `made` is what the record says of data and steps."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    file: Path
    made: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    spent_s: float = 0.0
    best: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        return bool(self.made) and self.step == self.made["steps"]

    def restore(self) -> None:
        state = read(self.file, f"state of a {_WHAT}")
        check_kind(self.file, state, _WHAT)
        if state.get("recipe") != json.dumps(asdict(self.recipe)):
            raise InputError(f"{self.file}: holds the state of another recipe; {ELSEWHERE}")
        try:
            made, self.runs = json.loads(state["made"]), of_json(state["runs"])
            self.made = {name: made[name] for name in _MADE}
            self.step = steps_done(state, self.made["steps"])
            self.spent_s = float(state["spent_s"])
            if state["best"] is not None:
                score, epoch, net = (state["best"][name] for name in ("score", "epoch", "net"))
                self.best = {"score": float(score), "epoch": int(epoch), "net": net}
                self.net.load_state_dict(net)
            self.net.load_state_dict(state["net"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # whatever the file holds
            raise InputError(
                f"{self.file}: is damaged, or of data of other classes ({type(error).__name__});"
                f" {ELSEWHERE}"
            ) from None

    def begin(self, made: dict[str, Any]) -> None:
        """Set `made`; what was restored must be a training on the same images."""
        digests = ("images_digest", "labels_digest")
        if self.made and any(self.made[name] != made[name] for name in digests):
            raise InputError(
                f"{self.file}: holds the state of a training on other images, {self.made['data']};"
                f" give those, or {ELSEWHERE}"
            )
        self.made = made

    def save(self) -> None:
        state = {"what": _WHAT, "recipe": json.dumps(asdict(self.recipe)), "step": self.step}
        state |= {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"made": json.dumps(self.made), "runs": json.dumps(self.runs)}
        write(self.file, state | {"spent_s": self.spent_s, "best": self.best})

    def judge(self, score: float, epoch: int) -> None:
        """Remember the network if none before had a better `score`; epochs count from 1."""
        if self.best is None or score > self.best["score"]:
            net = copy.deepcopy(self.net.state_dict())
            self.best = {"score": score, "epoch": epoch + 1, "net": net}

    def settle(self) -> None:
        """Take the best network, if epochs were judged."""
        if self.best is not None:
            self.net.load_state_dict(self.best["net"])


def rate(done: float, recipe: Recipe) -> float:
    """Return the learning rate as a share of its peak, after the share `done` of the steps."""
    if recipe.schedule == "steps":
        return 0.1 ** sum(done >= milestone for milestone in recipe.milestones)
    if done < recipe.warmup:
        return 0.1 + 0.9 * done / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (done - recipe.warmup) / (1 - recipe.warmup)))


def _split(data: Images, held: int) -> tuple[Images | None, Images]:
    """Images to validate on, and the others."""
    if not held:
        return None, data
    if held >= len(data):
        raise InputError(
            f"validation must be below the {len(data)} images of {data.name}, not {held}"
        )
    chosen = spread(len(data), held)
    return data.take(chosen), data.take(np.setdiff1d(np.arange(len(data)), chosen))


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    learned = [p for p in net.parameters() if p.requires_grad]
    decayed = [p for p in learned if p.ndim > 1]
    plain = [p for p in learned if p.ndim <= 1]
    return torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain}],
        lr=recipe.peak_lr,
        momentum=recipe.momentum,
        nesterov=True,
    )


def _batches(
    images: Tensor, labels: Tensor, recipe: Recipe, epoch: int, skip: int, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the epoch's augmented batches from number `skip` on; (B, 3, R, R) in [0, 1]."""
    side = recipe.resolutions[epoch]
    order = torch.randperm(
        len(labels), generator=torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
    )
    for index in range(skip, len(labels) // recipe.batch):
        chosen = order[index * recipe.batch : (index + 1) * recipe.batch]
        x = images[chosen].to(device, non_blocking=True).float().div_(255)
        if side != x.shape[-1]:
            x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        rng = np.random.default_rng((recipe.seed, epoch, index))
        yield _augment(x, rng), labels[chosen].to(device, non_blocking=True)


def _augment(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Shift by up to an eighth of the side in each direction (zero-padded), flip half of them."""
    count, _, side, _ = x.shape
    pad = side // 8
    shift = rng.integers(0, 2 * pad + 1, (2, count, 1))
    rows, columns = shift + np.arange(side)
    flip = rng.random(count) < 0.5
    columns[flip] = columns[flip, ::-1]
    rows, columns = (torch.from_numpy(at).to(x.device) for at in (rows, columns))
    padded = F.pad(x, (pad, pad, pad, pad)).permute(0, 2, 3, 1)  # channels last, as convolutions
    image = torch.arange(count, device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(
    net: nn.Module, data: Images, indices: Sequence[int] | None = None, batch: int = 250
) -> float:
    """Return the share of images that `net` (in eval mode) classifies correctly, in [0, 1]."""
    chosen = np.arange(len(data)) if indices is None else np.asarray(indices)
    right, device = 0, next(net.parameters()).device
    for start in range(0, len(chosen), batch):
        x, y = _taken(data, chosen[start : start + batch], device)
        right += int((net(x).argmax(1) == y).sum())
    return right / len(chosen)


def robust_accuracy(net: nn.Module, data: Images, recipe: Recipe, batch: int = 250) -> float:
    """Return the share of images right after PGD of the recipe's eps, step and steps, in [0, 1].

    `net` is put in eval mode. A quick figure for the choice of an epoch; what may be published
    comes from :mod:`sinai.model.robustness`.
    """
    net.eval()
    pgd = Recipe(
        adversary="pgd",
        eps=recipe.eps,
        attack_step=recipe.attack_step,
        attack_steps=recipe.attack_steps,
    )
    right, device = 0, next(net.parameters()).device
    for start in range(0, len(data), batch):
        x, y = _taken(data, np.arange(start, min(start + batch, len(data))), device)
        with torch.random.fork_rng(), torch.autocast(device.type, torch.bfloat16, recipe.bfloat16):
            torch.manual_seed(start)
            right += int((net(perturb(net, x, y, pgd)).argmax(1) == y).sum())
    return right / len(data)


def _taken(data: Images, chosen: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(data.images[chosen]).to(device).float().div_(255)
    return x, torch.from_numpy(data.labels[chosen]).to(device)
