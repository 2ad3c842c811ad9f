"""What the accelerator's choices cost in accuracy: the noise of one network, refitted for each.

Every variant changes one thing of the approximate path and fits W~ and b~ to it in closed form, on
the same images and positions; the exact path is the checkpoint's in all. Accuracies are of the
floating-point network, since the accelerator's integers exist for its own choices alone, on the
same test images, so that differences have smaller errors than accuracies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..common.errors import InputError
from ..common.integer import LayerRun
from ..common.scheme import Scheme
from .checkpoint import Checkpoint
from .closed_form import ClosedForm
from .rounded import fake_quantised, static_thresholds
from .sinai import layers_of, set_scheme, unconvert
from .switches import Switches

__all__ = [
    "BASE",
    "VARIANTS",
    "Variant",
    "measure_thresholds",
    "measure_variant",
]

#: Images of the fit that set the steps of the activations.
_CALIBRATION = 256

_BATCH = 50

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One change to the accelerator's approximate path.

    Parameters
    ----------
    meaning : str
        For tables.
    changes : dict
        Fields of :class:`Switches` that differ from the default.
    free_steps : bool
        As in :class:`sinai.model.closed_form.ClosedForm`.
    """

    meaning: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    free_steps: bool = False


#: Name of the variant that all others are compared with.
BASE = "accelerator"

#: Variants by name.
VARIANTS = {
    BASE: Variant(meaning="as in the checkpoints, P `patch`"),
    "no-requantise": Variant(meaning="P x^Q keeps its whole sums", changes={"requantise": False}),
    "free-steps": Variant(meaning="x^Q and p have any step, not one by shifts", free_steps=True),
    "tap": Variant(meaning="one P for all taps", changes={"projection": "tap"}),
    "k-jll-0.3": Variant(meaning="k by eps = 0.3", changes={"k": "jll:0.3"}),
    "k-jll-0.7": Variant(meaning="k by eps = 0.7", changes={"k": "jll:0.7"}),
    "k-quarter": Variant(
        meaning="k a quarter of the depth, at least 64", changes={"k": "fraction:0.25:64"}
    ),
    "k-full": Variant(meaning="k the depth, P random", changes={"k": "full"}),
    "no-projection": Variant(
        meaning="k the depth, P the identity", changes={"k": "full", "identity": True}
    ),
}


def measure_variant(
    checkpoint: Checkpoint,
    name: str,
    fit_images: NDArray[np.uint8],
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    schemes: Sequence[str],
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit the variant `name` on `fit_images` and run it on `images`, both uint8 (B, 3, H, W), on a
    `device` of PyTorch.

    Returns
    -------
    dict
        rows (k of each layer), unexplained (share of the variance of z that z~ leaves, by layer,
        over the fitted samples), right (by scheme, 1 or 0 of each image), seconds.

    Raises
    ------
    InputError
        If there is no such variant, or the network has no integers.
    """
    if name not in VARIANTS:
        raise InputError(f"variant must be one of {', '.join(VARIANTS)}, not {name!r}")
    variant, begun = VARIANTS[name], time.process_time()
    steps = len(fit_images) * 2 + len(images) * len(schemes)
    report = progress or (lambda done, of: None)
    run = ClosedForm(
        unconvert(checkpoint.floating()),
        checkpoint.manifest.seed,
        forms={name: Switches(**variant.changes)},
        free_steps=variant.free_steps,
        device=device,
    )
    pixels = torch.from_numpy(fit_images)
    # TensorFloat-32 would keep ten bits of the activations.
    with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
        run.calibrate(pixels[:_CALIBRATION])
        run.collect(pixels, lambda done, of: report(done, steps))
        share = len(pixels)
        run.refit(pixels, lambda done, of: report(share + share * done // of, steps))
        net, right = run.forms[name], {}
        for index, scheme in enumerate(schemes):
            set_scheme(net, scheme)
            hits = []
            for start in range(0, len(images), _BATCH):
                part = slice(start, start + _BATCH)
                hits.append(_classes(net, images[part], device) == labels[part])
                report(2 * share + index * len(images) + start, steps)
            right[scheme] = np.concatenate(hits).astype(int).tolist()
    return {
        "rows": {layer.name: layer.k for layer in layers_of(net)},
        "unexplained": run.errors[name],
        "right": right,
        "cpu_s": round(time.process_time() - begun, 1),
    }


@torch.no_grad()
def _classes(net: nn.Module, images: NDArray[np.uint8], device: str) -> np.ndarray:
    return net(_real(images).to(device)).argmax(1).cpu().numpy()


def _real(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).float().div_(255)


def measure_thresholds(
    checkpoint: Checkpoint,
    scheme: str,
    calibration: NDArray[np.uint8],
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    projection: str = "patch",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the checkpoint's integers with Top-K of each image, then with one theta a layer.

    Thetas come from the images `calibration`; arrays as in :func:`measure_variant`.

    Returns
    -------
    dict
        thetas, right and noise, both by `sample` and `static`: 1 or 0 and the share of noisy
        neurons of each image; layers: mean noise of each layer under static thetas.
    """
    begun = time.process_time()
    net, wanted = checkpoint.integer(projection), Scheme.parse(scheme)
    fake = fake_quantised(net, checkpoint.manifest.seed)
    thetas = static_thresholds(fake, wanted, _real(calibration))
    report = progress or (lambda done, of: None)
    neurons = np.array([spec.layer.neurons for spec in net.layers])
    right, noise = {}, {}
    for index, (kind, given) in enumerate((("sample", None), ("static", thetas))):
        hits, shares = [], []
        for start in range(0, len(images), _BATCH):
            noisy: list[NDArray[np.floating]] = []

            def see(layer: int, done: LayerRun, noisy=noisy) -> None:
                noisy.append(1 - done.mask.mean((1, 2)))

            part = slice(start, start + _BATCH)
            logits = net.run(images[part], wanted, thetas=given, observe=see)
            hits.append(logits.argmax(1) == labels[part])
            shares.append(np.stack(noisy, axis=1))  # (B, layers)
            report(index * len(images) + start, 2 * len(images))
        right[kind] = np.concatenate(hits).astype(int).tolist()
        noise[kind] = np.concatenate(shares)
    names = [spec.layer.name for spec in net.layers]
    means = noise["static"].mean(0).round(6).tolist()
    return {
        "thetas": list(thetas),
        "right": right,
        "noise": {k: (v @ neurons / neurons.sum()).round(6).tolist() for k, v in noise.items()},
        "layers": dict(zip(names, means, strict=True)),
        "cpu_s": round(time.process_time() - begun, 1),
    }
