"""From a trained network to a SINAI checkpoint: scales, then noise weights layer by layer.

The noise weights minimise the paper's Eq. 1, the mean of |z - z~|^2 over images and positions. z is
always the frozen network's own. z~ sees two kinds of input, of equal weight: the frozen network's,
as in the paper, and what the layers before it, distilled already, give under strong noise
(:data:`NOISE`), so that a layer makes up for some of the errors in front of it. The second kind is
our addition, in place of the paper's fine-tuning. One network serves all schemes.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.errors import InputError
from ..common.scheme import Scheme
from . import nets
from .calibrate import Scales, calibrate, observe, rows_at, shift_of_p, sums_of
from .chain import INPUT, Link, chain
from .checkpoint import FORMS, Checkpoint, pack
from .data import Images, load
from .evaluate import spread
from .fit import Moments, fit
from .quant import levels
from .quantise import quantise
from .sinai import SinaiConv2d, convert

__all__ = ["NOISE", "distill", "distill_net"]

#: Output positions of a layer that are sampled in each image.
_POSITIONS = 16

#: Schemes under which the noisy inputs arise.
NOISE = ("unstructured:0.9", "structured:7:8")

#: Images whose activations are kept to make the noisy inputs: 4 MB each for ResNet-18.
_KEPT = 1000

#: Images that set the scales of the activations.
_CALIBRATION = 256

_BATCH = 50

Progress = Callable[[int, int], None]


def distill(
    net_state_path: str | os.PathLike[str],
    data_spec: str,
    out_dir: str | os.PathLike[str],
    *,
    images: int = 10_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Distil the network that `sinai train` left in a folder and write a checkpoint folder.

    Parameters
    ----------
    net_state_path : path
        Folder with ``state.pt`` and ``record.json``, or the ``state.pt`` itself.
    data_spec : str
        Data set as in :func:`sinai.model.data.load`; its training split is used.
    out_dir : path
        Checkpoint folder; must not exist or must be empty. Built aside and renamed.
    images : int
        Training images to distil on, drawn by `seed`; at most 10,000, and no more than there are.
    seed : int
        Seed of P and of the sample.
    progress : callable, optional
        Called as ``progress(done, of)`` in images.

    Raises
    ------
    InputError
        If a file is missing or damaged, or a number is out of range.
    """
    if not 1 <= images <= 10_000:
        raise InputError(f"images must be between 1 and 10000, not {images}")
    if seed < 0:
        raise InputError(f"seed must be at least 0, not {seed}")
    net, network, training = _trained(Path(net_state_path))
    data = load(data_spec, "train")
    if len(data.classes) != net.classes:
        raise InputError(
            f"{data_spec}: has {len(data.classes)} classes, the network of {net_state_path} has"
            f" {net.classes}; give the data set it was trained on"
        )
    checkpoint = distill_net(
        net, network, data, images=images, seed=seed, training=training, progress=progress
    )
    return checkpoint.save(out_dir)


def distill_net(
    net: nets.ResNet,
    network: str,
    data: Images,
    *,
    images: int = 10_000,
    seed: int = 0,
    training: dict[str, Any],
    progress: Progress | None = None,
) -> Checkpoint:
    """Distil a trained network in memory; see :func:`distill`. `net` is changed."""
    chain(net)  # refuses what has no integers
    started = time.monotonic()
    count = min(images, len(data))
    chosen = np.sort(np.random.default_rng((seed, 1)).permutation(len(data))[:count])
    pixels = torch.from_numpy(data.images[chosen])
    forms = {
        form: convert(copy.deepcopy(net), projection=form, seed=seed, batch_norm="fold")
        for form in FORMS
    }
    links = {form: chain(made) for form, made in forms.items()}

    first = spread(count, min(count, _CALIBRATION))
    scales = calibrate(forms["patch"], links["patch"], _batch(pixels[first]), seed)
    for form in FORMS:
        for link in links[form]:
            link.module.x_step.fill_(scales[link.source].step)
            link.module.x_unsigned.fill_(scales[link.source].unsigned)

    sampler = _Sampler(seed)
    gather = _Gather(links, sampler)
    for start in range(0, count, _BATCH):
        part = _batch(pixels[start : start + _BATCH])
        observe(forms["patch"], links["patch"], part, gather)
        if progress is not None:
            progress((start + len(part)) // 2, count)

    def advance(layers: int) -> None:
        if progress is not None:
            progress(count - count // 2 + count // 2 * layers // len(links["patch"]), count)

    kept = spread(count, min(count, _KEPT))
    errors = _refit(forms["patch"], links, pixels[kept], gather.moments, scales, sampler, advance)
    record = {
        "method": "least squares, INT4 rounding with error compensation, descent over single"
        " weights; on activations of the exact network and of the noisy ones",
        "noise": list(NOISE),
        "noise_images": len(kept),
        "images": count,
        "positions_per_image": _POSITIONS,
        "calibration_images": len(first),
        "relative_error": errors,
        "wall_s": round(time.monotonic() - started, 1),
        "versions": {name: metadata.version(name) for name in ("numpy", "sinai", "torch")}
        | {"python": platform.python_version()},
    }
    return pack(
        {form: quantise(forms[form], network, scales, seed) for form in FORMS},
        seed=seed,
        data=data.name,
        classes=data.classes,
        training=training,
        distillation=record,
        name=network,
    )


class _Sampler:
    """Draws output positions and adds what the layer's projection and target are there."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def positions(self, z: Tensor) -> Tensor:
        """Positions (B, n) of z (B, C, H, W), row-major, each at most once an image."""
        pixels = z.shape[2] * z.shape[3]
        draw = torch.rand(len(z), pixels, generator=self.generator)
        return draw.topk(min(_POSITIONS, pixels), dim=1).indices


class _Gather:
    """Visits the layers of the `patch` network and collects moments of both forms of P."""

    def __init__(self, links: dict[str, tuple[Link, ...]], sampler: _Sampler):
        self.sampler = sampler
        self.modules = {form: {k.name: k.module for k in links[form]} for form in FORMS}
        self.moments = {form: {k.name: Moments() for k in links[form]} for form in FORMS}

    def __call__(self, link: Link, x: Tensor, z: Tensor) -> None:
        at = self.sampler.positions(z)
        rows = rows_at(link.module, x, at)  # (B * n, d)
        for form in FORMS:
            module, moments = self.modules[form][link.name], self.moments[form][link.name]
            sums = sums_of(module, rows)
            if not moments.weight:
                module.p_shift.fill_(shift_of_p(sums))
            _add(moments, module, sums, z, at)


@torch.no_grad()
def _refit(
    net: nets.ResNet,
    links: dict[str, tuple[Link, ...]],
    pixels: Tensor,
    dense: dict[str, dict[str, Moments]],
    scales: dict[str, Scales],
    sampler: _Sampler,
    advance: Callable[[int], None],
) -> dict[str, dict[str, float]]:
    """Fit layer by layer, each on what the layers before it give under noise; see the module.

    Returns the share of unexplained variance by form and layer. Keeps the activations of `pixels`
    for the exact network and for every form and scheme, as long as a later layer reads them.
    """
    x = torch.cat([net.normalize(_batch(part)) for part in pixels.split(_BATCH)])
    exact = {INPUT: x}
    noisy = {(form, scheme): {INPUT: x} for form in FORMS for scheme in NOISE}
    errors: dict[str, dict[str, float]] = {form: {} for form in FORMS}
    for index, link in enumerate(links["patch"]):
        z = _in_batches(link.module.exact, exact[link.source])
        at = sampler.positions(z)
        for form in FORMS:
            module, moments = links[form][index].module, Moments()
            for scheme in NOISE:
                source = noisy[form, scheme][link.source]
                for part in torch.arange(len(z)).split(_BATCH):
                    sums = sums_of(module, rows_at(module, source[part], at[part]))
                    _add(moments, module, sums, z[part], at[part])
            found = fit(moments.combined(dense[form][link.name]), scales[link.name].scale)
            module.set_noise(found.weight, found.step, found.bias)
            share = found.error.sum() / found.variance.sum()
            errors[form][link.name] = round(float(share), 4)
            for scheme in NOISE:
                module.scheme = Scheme.parse(scheme)
                outputs = noisy[form, scheme]
                outputs[link.name] = _finish(
                    link, _in_batches(module, outputs[link.source]), outputs
                )
            module.scheme = Scheme.parse("dense")
        exact[link.name] = _finish(link, z, exact)
        needed = {name for k in links["patch"][index + 1 :] for name in (k.source, k.residual)}
        for outputs in (exact, *noisy.values()):
            for name in set(outputs) - needed:
                del outputs[name]
        advance(index + 1)
    return errors


def _add(moments: Moments, module: SinaiConv2d, sums: Tensor, z: Tensor, at: Tensor) -> None:
    """Add the samples at positions `at` (B, n) of z (B, C, H, W); `sums` is P x^Q (B * n, k)."""
    wanted = z.flatten(2).gather(2, at.unsqueeze(1).expand(-1, z.shape[1], -1))
    p = levels(sums, 2.0**module.p_shift, -8, 7)
    moments.add(p.numpy(), wanted.permute(0, 2, 1).flatten(0, 1).numpy())


def _finish(link: Link, v: Tensor, outputs: dict[str, Tensor]) -> Tensor:
    """What follows a layer: residual and ReLU."""
    if link.residual:
        v = v + outputs[link.residual]
    return torch.relu(v) if link.relu else v


def _in_batches(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([function(part) for part in x.split(_BATCH)])


def _batch(pixels: Tensor) -> Tensor:
    return pixels.float().div_(255)


def _trained(path: Path) -> tuple[nets.ResNet, str, dict[str, Any]]:
    """The network of a training folder, its name and the record of its training."""
    state_file = path / "state.pt" if path.is_dir() else path
    try:
        state = torch.load(state_file, weights_only=True, map_location="cpu")
        recipe = json.loads(state["recipe"])
        weights = state["net"]
        net = nets.build(recipe["model"], len(weights["classifier.bias"]))
        net.load_state_dict(weights)
    except OSError as error:
        raise InputError(
            f"{state_file}: cannot be read ({error.strerror}); give the folder that `sinai train`"
            " wrote"
        ) from None
    except InputError:
        raise
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        raise InputError(
            f"{state_file}: is no state of a training ({type(error).__name__}); give the folder"
            " that `sinai train` wrote"
        ) from None
    record = {"recipe": recipe, "step": state["step"]}
    record_file = state_file.with_name("record.json")
    if record_file.exists():
        record = json.loads(record_file.read_text())
    return net.eval(), recipe["model"], record
