"""From a trained network to a SINAI checkpoint: scales, then noise weights layer by layer.

The noise weights minimise the paper's Eq. 1, the mean of |z - z~|^2 over images and positions. z is
always the frozen network's own. z~ sees two kinds of input, of equal weight: the frozen network's,
as in the paper, and what the layers before it, distilled already, give under strong noise
(:data:`NOISE`), so that a layer makes up for some of the errors in front of it. The second kind is
our addition, in place of the paper's fine-tuning. One network serves all schemes.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.errors import InputError
from ..traces import networks
from . import nets
from .chain import chain
from .checkpoint import Checkpoint, pack
from .closed_form import NOISE, POSITIONS, ClosedForm, kept_images
from .data import Images, load
from .device import pick
from .evaluate import spread
from .quantise import quantise
from .trained import load_trained
from .weights import digest

__all__ = ["NOISE", "distill", "distill_net"]

#: Images that set the scales of the activations.
_CALIBRATION = 256

Progress = Callable[[int, int], None]


def distill(
    net_state_path: str | os.PathLike[str],
    data_spec: str,
    out_dir: str | os.PathLike[str],
    *,
    images: int = 10_000,
    noise_images: int = 1000,
    weight_bits: int = 16,
    seed: int = 0,
    device: str = "auto",
    state: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Distil a trained network and write a checkpoint folder.

    Parameters
    ----------
    net_state_path : path
        As in :func:`sinai.model.trained.load_trained`. Of a fine-tuned network W and b are taken;
        W~ and b~ are fitted anew, as of any other.
    data_spec : str
        Data set as in :func:`sinai.model.data.load`; its training split is used.
    out_dir : path
        Checkpoint folder; must not exist or must be empty. Built aside and renamed.
    images : int
        Training images to distil on, drawn by `seed`; at most 10,000, and no more than there are.
    noise_images : int
        Those of them whose noisy activations are fitted, too; at most `images`, and no more than
        fit into 5 GiB of memory.
    weight_bits : int
        Bits of the exact path's weights, 2 to 16.
    seed : int
        Seed of P and of the sample.
    device : {"auto", "cpu", "cuda"}
        Where the network runs; auto takes CUDA where there is one. The fits run on the CPU.
    state : Path, optional
        File that keeps what is done, at most every five minutes, and from which an interrupted run
        with the same arguments goes on.
    progress : callable, optional
        Called as ``progress(done, of)`` in images.

    Raises
    ------
    InputError
        If a file is missing or damaged, a number is out of range, or `state` is that of another
        distillation.
    """
    for name, value, low, high in (
        ("images", images, 1, 10_000),
        ("noise_images", noise_images, 1, 10_000),
        ("weight_bits", weight_bits, 2, 16),
    ):
        if not low <= value <= high:
            raise InputError(f"{name} must be between {low} and {high}, not {value}")
    if seed < 0:
        raise InputError(f"seed must be at least 0, not {seed}")
    pick(device)  # refuses it before anything is read
    trained = load_trained(net_state_path)
    if trained.recipe.defence != "none":
        raise InputError(
            f"{net_state_path}: is trained with the noise of {trained.recipe.defence}, which has no"
            " place in a checkpoint; give a network of defence none"
        )
    net, network, training = trained.net, trained.recipe.model, trained.record
    data = load(data_spec, "train")
    if len(data.classes) != net.classes:
        raise InputError(
            f"{data_spec}: has {len(data.classes)} classes, the network of {net_state_path} has"
            f" {net.classes}; give the data set it was trained on"
        )
    checkpoint = distill_net(
        net,
        network,
        data,
        images=images,
        noise_images=noise_images,
        weight_bits=weight_bits,
        seed=seed,
        device=device,
        state=state,
        training=training,
        progress=progress,
    )
    return checkpoint.save(out_dir)


def distill_net(
    net: nets.ResNet | nets.PreActResNet,
    network: str,
    data: Images,
    *,
    images: int = 10_000,
    noise_images: int = 1000,
    weight_bits: int = 16,
    seed: int = 0,
    device: str = "auto",
    state: Path | None = None,
    save_every_s: float = 300.0,
    training: dict[str, Any],
    progress: Progress | None = None,
) -> Checkpoint:
    """Distil a trained network in memory; see :func:`distill`. `state`, if given, is replaced at
    most every `save_every_s` seconds."""
    chain(net)  # refuses what has no integers
    device = pick(device)
    count = min(images, len(data))
    chosen = np.sort(np.random.default_rng((seed, 1)).permutation(len(data))[:count])
    pixels = torch.from_numpy(data.images[chosen])
    first = spread(count, min(count, _CALIBRATION))
    kept = spread(count, kept_images(networks.layers(network), min(count, noise_images)))

    def collected(done: int, of: int) -> None:
        if progress is not None:
            progress(done // 2, count)

    def fitted(done: int, of: int) -> None:
        if progress is not None:
            progress(count - count // 2 + count // 2 * done // of, count)

    # TensorFloat-32 would keep ten bits of the frozen network's activations.
    with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
        run = ClosedForm(
            net,
            seed,
            device=device,
            state=state,
            # Everything that decides it but the rounding at its end.
            identity=f"seed {seed}, {len(kept)} noisy, {digest(net, pixels)}",
            save_every_s=save_every_s,
        )
        run.calibrate(pixels[first])
        run.collect(pixels, collected)
        run.refit(pixels[kept], fitted)
    record = {
        "method": "least squares, INT4 rounding with error compensation, descent over single"
        " weights; on activations of the exact network and of the noisy ones",
        "noise": list(NOISE),
        "noise_images": len(kept),
        "images": count,
        "positions_per_image": POSITIONS,
        "calibration_images": len(first),
        "relative_error": run.errors,
        "device": device,
        "wall_s": round(run.wall_s, 1),
        "versions": {name: metadata.version(name) for name in ("numpy", "sinai", "torch")}
        | {"python": platform.python_version()},
    }
    return pack(
        {
            form: quantise(made.cpu(), network, run.scales, seed, weight_bits)
            for form, made in run.forms.items()
        },
        seed=seed,
        data=data.name,
        classes=data.classes,
        training=training,
        distillation=record,
        weight_bits=weight_bits,
        name=network,
    )
