"""Clean training of a network, resumable, with the record of how it was made.

The schedule is a one-cycle SGD with Nesterov momentum (Smith and Topin 2018) over a few epochs
whose resolution may grow (progressive resizing): early epochs on small images cost a fraction of
the last ones. Made for small budgets: ResNet-18 on two CPU cores in well under two hours.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import InputError
from . import nets
from .data import Images

__all__ = ["Recipe", "accuracy", "train"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a training run besides the data.

    Parameters
    ----------
    model : str
        Name in :data:`sinai.model.nets.MODELS`.
    resolutions : tuple of int
        Side of the training images, in pixels, one entry an epoch.
    batch : int
        Images a step.
    peak_lr : float
        Learning rate at the top of the cycle; it starts at a tenth and ends near zero.
    warmup : float
        Share of the steps before the peak, in (0, 1).
    weight_decay, momentum, label_smoothing : float
        The usual.
    bfloat16 : bool
        Run convolutions in bfloat16 (weights and sums stay float32).
    seed : int
        Seeds the initial weights, the order of the images and the augmentation.
    """

    model: str = "resnet18"
    resolutions: tuple[int, ...] = (16, 16, 24, 24, 32, 32)
    batch: int = 128
    peak_lr: float = 0.2
    warmup: float = 0.25
    weight_decay: float = 5e-4
    momentum: float = 0.9
    label_smoothing: float = 0.1
    bfloat16: bool = True
    seed: int = 0


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
    on from it and gives the same batches as an uninterrupted run. `progress`, when given, is called
    as ``progress(step, steps, loss, accuracy)``. `device` is ``cpu``, ``cuda`` or ``auto``, which
    takes CUDA where there is one; the network comes back on the CPU.

    Raises
    ------
    InputError
        If `out` holds the state of another recipe, or there are fewer images than a batch has.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    net = nets.build(recipe.model, len(data.classes))
    net = net.to(device, memory_format=torch.channels_last)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain}],
        lr=recipe.peak_lr,
        momentum=recipe.momentum,
        nesterov=True,
    )
    per_epoch = len(data) // recipe.batch
    if not per_epoch:
        raise InputError(
            f"batch must be at most the {len(data)} images of {data.name}, not {recipe.batch}"
        )
    steps = per_epoch * len(recipe.resolutions)
    done, spent_s = 0, 0.0
    state_file = out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        if state["recipe"] != json.dumps(asdict(recipe)):
            raise InputError(f"{state_file}: holds the state of another recipe; choose another -o")
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        done, spent_s = state["step"], state["spent_s"]

    out.mkdir(parents=True, exist_ok=True)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    started = saved = time.monotonic()
    net.train()
    for epoch in range(done // per_epoch, len(recipe.resolutions)):
        skip = done - epoch * per_epoch
        for step, (x, y) in enumerate(
            _batches(images, labels, recipe, epoch, skip), start=epoch * per_epoch + skip
        ):
            for group in optimizer.param_groups:
                group["lr"] = recipe.peak_lr * _one_cycle(step / steps, recipe.warmup)
            x, y = x.to(device), y.to(device)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=recipe.bfloat16):
                logits = net(x)
                loss = F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done = step + 1
            if progress is not None:
                hit = (logits.argmax(1) == y).float().mean().item()
                progress(done, steps, loss.item(), hit)
            if time.monotonic() - saved > save_every_s or done == steps:
                saved = time.monotonic()
                _save(
                    state_file,
                    {
                        "recipe": json.dumps(asdict(recipe)),
                        "net": net.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": done,
                        "spent_s": spent_s + saved - started,
                    },
                )
    net.eval()
    record = {
        "recipe": asdict(recipe),
        "data": data.name,
        "images": len(data),
        "steps": steps,
        "device": device,
        "wall_s": round(spent_s + time.monotonic() - started, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    (out / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    return net.cpu()


def _one_cycle(done: float, warmup: float) -> float:
    """Return the learning rate as a share of its peak, after the share `done` of the steps."""
    if done < warmup:
        return 0.1 + 0.9 * done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _batches(
    images: Tensor, labels: Tensor, recipe: Recipe, epoch: int, skip: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the epoch's augmented batches from number `skip` on; (B, 3, R, R) in [0, 1]."""
    side = recipe.resolutions[epoch]
    order = torch.randperm(
        len(labels), generator=torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
    )
    for index in range(skip, len(labels) // recipe.batch):
        chosen = order[index * recipe.batch : (index + 1) * recipe.batch]
        x = images[chosen].float().div_(255)
        if side != x.shape[-1]:
            x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        rng = np.random.default_rng((recipe.seed, epoch, index))
        yield _augment(x, rng), labels[chosen]


def _augment(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Shift by up to an eighth of the side in each direction (zero-padded), flip half of them."""
    count, _, side, _ = x.shape
    pad = side // 8
    x = F.pad(x, (pad, pad, pad, pad))
    top, left = rng.integers(0, 2 * pad + 1, (2, count))
    flip = rng.random(count) < 0.5
    out = torch.empty(count, 3, side, side).to(memory_format=torch.channels_last)
    for i in range(count):
        crop = x[i, :, top[i] : top[i] + side, left[i] : left[i] + side]
        out[i] = crop.flip(-1) if flip[i] else crop
    return out


@torch.no_grad()
def accuracy(
    net: nn.Module, data: Images, indices: Sequence[int] | None = None, batch: int = 250
) -> float:
    """Return the share of images that `net` (in eval mode) classifies correctly, in [0, 1]."""
    chosen = np.arange(len(data)) if indices is None else np.asarray(indices)
    right = 0
    for start in range(0, len(chosen), batch):
        part = chosen[start : start + batch]
        x = torch.from_numpy(data.images[part]).float().div_(255)
        right += int((net(x).argmax(1).numpy() == data.labels[part]).sum())
    return right / len(chosen)


def _save(path: Path, state: dict) -> None:
    """Write beside and rename, so that an interrupted save leaves the old state whole."""
    aside = path.with_suffix(".tmp")
    torch.save(state, aside)
    os.replace(aside, path)
