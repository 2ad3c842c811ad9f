"""Distillation in closed form, layer by layer: two passes over images that can be interrupted.

The first pass collects moments on the frozen network's own activations. The second runs the images
that are kept through the network, exact and under noise, one layer after another, adds the moments
on the noisy activations and fits the layer.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.errors import InputError
from ..common.scheme import Scheme
from . import nets
from .calibrate import Scales, calibrate, observe, p_of, rows_at, shift_of_p, sums_of
from .chain import INPUT, Link, chain
from .checkpoint import FORMS
from .fit import Moments, fit
from .sinai import SinaiConv2d, convert
from .steps import step_of
from .switches import Switches
from .weights import read, write

__all__ = ["NOISE", "POSITIONS", "ClosedForm", "kept_images"]

#: Output positions of a layer that are sampled in each image.
POSITIONS = 16

#: Schemes under which the noisy inputs arise.
NOISE = ("unstructured:0.9", "structured:7:8")

#: Paths through the network that are kept side by side: the exact one, and the noisy ones.
_PATHS = 1 + len(FORMS) * len(NOISE)

#: Memory for the activations of the kept images.
_KEPT_BYTES = 5 << 30

#: Shifts of p tried where it may have any step.
_FREE_SHIFTS = tuple(index / 8 for index in range(8 * 12))

_BATCH = 50

Progress = Callable[[int, int], None]


def kept_images(layers: Sequence[Any], wanted: int) -> int:
    """How many of `wanted` images fit: a path holds three float32 tensors of a layer at a time."""
    largest = max(layer.neurons for layer in layers)
    return max(1, min(wanted, _KEPT_BYTES // (_PATHS * 3 * 4 * largest)))


class ClosedForm:
    """Every form of one network's noise, from calibration to fitted noise weights.

    Parameters
    ----------
    net : ResNet or PreActResNet
        The trained network; it is copied.
    seed : int
        Seed of P and of the sample of positions.
    forms : dict, optional
        Switches of each form of the noise by name; by default both forms of P. All have the same
        x^Q and are fitted on the same positions.
    free_steps : bool
        Give x^Q of each tensor and p of each layer the step of least error, instead of one that the
        accelerator reaches by shifting. Not for :func:`sinai.model.quantise.quantise`.
    device : str
        Where the networks run and the activations are kept. The fits run on the CPU.
    state : Path, optional
        File that keeps what is done at most every `save_every_s` seconds; if it exists the run goes
        on from it. `identity` says what it must be the state of.
    """

    def __init__(
        self,
        net: nets.ResNet | nets.PreActResNet,
        seed: int,
        *,
        forms: Mapping[str, Switches] | None = None,
        free_steps: bool = False,
        device: str = "cpu",
        state: Path | None = None,
        identity: str = "",
        save_every_s: float = 300.0,
    ):
        self.seed, self.device = seed, device
        forms = forms or {form: Switches(projection=form) for form in FORMS}
        self.forms = {
            form: convert(copy.deepcopy(net), seed=seed, switches=each, batch_norm="fold").to(
                device
            )
            for form, each in forms.items()
        }
        self.first = next(iter(self.forms))  # whose exact path serves all
        self.links = {form: chain(made) for form, made in self.forms.items()}
        self.free_steps = free_steps
        self.shifts = _FREE_SHIFTS if free_steps else range(12)
        self.positions = torch.Generator().manual_seed(seed)
        self.scales: dict[str, Scales] = {}
        self.moments = {form: {k.name: Moments() for k in self.links[form]} for form in forms}
        self.seen = 0
        self.paths: dict[str, _Path] = {}
        self.errors: dict[str, dict[str, float]] = {form: {} for form in forms}
        self.state, self.identity, self.save_every_s = state, identity, save_every_s
        self.started = self.saved = time.monotonic()
        self.spent_s = 0.0
        if state is not None and state.exists():
            self._restore(read(state, "distillation"))

    @property
    def wall_s(self) -> float:
        """Seconds of all runs together."""
        return self.spent_s + time.monotonic() - self.started

    def calibrate(self, pixels: Tensor) -> None:
        """Set the scales of all activations from uint8 images (B, 3, H, W)."""
        if not self.scales:
            net, links = self.forms[self.first], self.links[self.first]
            self.scales = calibrate(net, links, self._batch(pixels), self.seed)
        for form in self.forms:
            for link in self.links[form]:
                source = self.scales[link.source]
                link.module.x_step.fill_(source.step)
                link.module.x_unsigned.fill_(source.unsigned)
        if self.free_steps:
            self._free(pixels)

    def _free(self, pixels: Tensor) -> None:
        def visit(link: Link, x: Tensor, z: Tensor) -> None:
            step = step_of(x, *link.module.switches.input_range(bool(link.module.x_unsigned)))
            for links in self.links.values():
                module = next(each.module for each in links if each.name == link.name)
                module.x_step.copy_(step)
                module.p_shift = module.p_shift.double()  # not whole any more

        observe(self.forms[self.first], self.links[self.first], self._batch(pixels), visit)

    def collect(self, pixels: Tensor, progress: Progress) -> None:
        """First pass, over uint8 images (B, 3, H, W)."""
        net, links = self.forms[self.first], self.links[self.first]
        modules = {form: {k.name: k.module for k in self.links[form]} for form in self.forms}

        def visit(link: Link, x: Tensor, z: Tensor) -> None:
            at = self._draw(len(z), z[0, 0].numel())
            rows = rows_at(link.module, x, at)  # (B * n, d)
            for form in self.forms:
                module, moments = modules[form][link.name], self.moments[form][link.name]
                sums = sums_of(module, rows)
                if not moments.weight and module.switches.requantise:
                    module.p_shift.fill_(shift_of_p(sums, self.shifts))
                _add(moments, module, sums, _at(z, at))

        for start in range(self.seen, len(pixels), _BATCH):
            part = pixels[start : start + _BATCH]
            observe(net, links, self._batch(part), visit)
            self.seen = start + len(part)
            self._save()
            progress(self.seen, len(pixels))

    @torch.no_grad()
    def refit(self, pixels: Tensor, progress: Progress) -> None:
        """Second pass, over uint8 images (B, 3, H, W), all of which are kept in memory; fits every
        layer and leaves the share of unexplained variance in `errors`, by form and layer."""
        net, links = self.forms[self.first], self.links[self.first]
        if not self.paths:
            x = torch.cat([net.normalize(self._batch(part)) for part in pixels.split(_BATCH)])
            names = ["exact", *(f"{form} {scheme}" for form in self.forms for scheme in NOISE)]
            self.paths = {name: _Path(x) for name in names}
        exact = self.paths["exact"]
        for index in range(len(self.errors[self.first]), len(links)):
            link, later = links[index], links[index + 1 :]
            at = self._draw(len(pixels), _pixels(link.module, exact.read[link.source]))
            wanted: list[Tensor] = []

            def see(x: Tensor, link=link, at=at, wanted=wanted) -> Tensor:
                z = link.module.exact(x)
                start = sum(len(part) for part in wanted)
                wanted.append(_at(z, at[start : start + len(x)]))
                return z

            exact.run(link, see, later)
            z = torch.cat(wanted)
            for form in self.forms:
                self._fit(form, index, at, z, later)
            self._save()
            progress(index + 1, len(links))

    def _fit(self, form: str, index: int, at: Tensor, z: Tensor, later: Sequence[Link]) -> None:
        """Fit a layer for a form of P, and run it under noise; wanted z (B, n, C) at `at`."""
        link = self.links[form][index]
        module, moments = link.module, Moments()
        paths = {scheme: self.paths[f"{form} {scheme}"] for scheme in NOISE}
        for path in paths.values():
            source = path.read[link.source]
            for part in _parts(len(z)):
                sums = sums_of(module, rows_at(module, source[part], at[part]))
                _add(moments, module, sums, z[part])
        both = moments.combined(self.moments[form][link.name])
        found = fit(both, self.scales[link.name].sum_scale)
        module.set_noise(found.weight, found.step, found.bias)
        share = found.error.sum() / found.variance.sum()
        self.errors[form][link.name] = round(float(share), 4)
        for scheme, path in paths.items():
            module.scheme = Scheme.parse(scheme)
            path.run(link, module, later)
        module.scheme = Scheme.parse("dense")

    def _draw(self, images: int, pixels: int) -> Tensor:
        """Positions (images, n) of maps of `pixels`, row-major, each at most once an image."""
        draw = torch.rand(images, pixels, generator=self.positions)
        return draw.topk(min(POSITIONS, pixels), dim=1).indices.to(self.device)

    def _batch(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.device).float().div_(255)

    def _save(self) -> None:
        if self.state is None or time.monotonic() - self.saved < self.save_every_s:
            return
        noise = ("p_shift", "noise_weight", "noise_bias", "noise_scale")
        write(
            self.state,
            {
                "identity": self.identity,
                "spent_s": self.wall_s,
                "positions": self.positions.get_state(),
                "scales": {name: asdict(scales) for name, scales in self.scales.items()},
                "nets": {
                    form: {k: v for k, v in net.state_dict().items() if k.endswith(noise)}
                    for form, net in self.forms.items()
                },
                "moments": {
                    form: {name: one.tensors() for name, one in made.items()}
                    for form, made in self.moments.items()
                },
                "seen": self.seen,
                "paths": {name: (path.read, path.added) for name, path in self.paths.items()},
                "errors": self.errors,
            },
        )
        self.saved = time.monotonic()

    def _restore(self, state: dict[str, Any]) -> None:
        if state.get("identity") != self.identity:
            raise InputError(
                f"{self.state}: holds the state of another distillation, or of an earlier version"
                " of sinai; remove it, or choose another output"
            )
        try:
            self._take(state)
        except Exception as error:  # whatever the file holds
            raise InputError(
                f"{self.state}: is damaged ({type(error).__name__}); remove it, and distillation"
                " begins anew"
            ) from None

    def _take(self, state: dict[str, Any]) -> None:
        self.spent_s, self.seen, self.errors = state["spent_s"], state["seen"], state["errors"]
        self.positions.set_state(state["positions"])
        self.scales = {name: Scales(**values) for name, values in state["scales"].items()}
        for form, net in self.forms.items():
            net.load_state_dict(state["nets"][form], strict=False)
            self.moments[form] = {
                name: Moments.of(values) for name, values in state["moments"][form].items()
            }
        for name, (made, added) in state["paths"].items():
            self.paths[name] = path = _Path(torch.empty(0))
            path.read = {key: value.to(self.device) for key, value in made.items()}
            path.added = {key: value.to(self.device) for key, value in added.items()}


class _Path:
    """One way of computing the kept images: what layers read and what they add, by name, as long
    as a later layer needs it."""

    def __init__(self, x: Tensor):
        self.read: dict[str, Tensor] = {INPUT: x}
        self.added: dict[str, Tensor] = {}

    def run(self, link: Link, function: Callable[[Tensor], Tensor], later: Sequence[Link]) -> None:
        """Compute a layer, `function` of what it reads, in batches."""
        x, residual = self.read[link.source], self.added.get(link.residual)
        wanted = (
            link.name in {each.residual for each in later},
            link.name in {each.source for each in later},
        )
        outputs: list[Tensor | None] = [None, None]
        for part in _parts(len(x)):
            v = function(x[part])
            finished = link.finish(v, None if residual is None else residual[part])
            for place, value in enumerate(finished):
                if not wanted[place] or (place == 0 and wanted[1] and link.norm is None):
                    continue  # unneeded, or the same tensor as what is read
                if outputs[place] is None:
                    outputs[place] = value.new_empty((len(x), *value.shape[1:]))
                outputs[place][part] = value
        added, made = outputs
        if wanted[0]:
            self.added[link.name] = made if added is None else added
        if wanted[1]:
            self.read[link.name] = made
        for kept, names in (
            (self.read, {each.source for each in later}),
            (self.added, {each.residual for each in later}),
        ):
            for name in kept.keys() - names:
                del kept[name]


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]


def _pixels(module: SinaiConv2d, x: Tensor) -> int:
    """Output pixels of an image, of inputs x (B, C, H, W)."""
    reach = 2 * module.padding - module.kernel
    return math.prod((side + reach) // module.stride + 1 for side in x.shape[2:])


def _at(z: Tensor, at: Tensor) -> Tensor:
    """Values (B, n, C) of z (B, C, H, W) at positions (B, n)."""
    chosen = z.flatten(2).gather(2, at.unsqueeze(1).expand(-1, z.shape[1], -1))
    return chosen.permute(0, 2, 1)


def _add(moments: Moments, module: SinaiConv2d, sums: Tensor, z: Tensor) -> None:
    """Add samples: P x^Q (B * n, k) of `module` and the wanted z (B, n, C)."""
    moments.add(p_of(module, sums).cpu().numpy(), z.flatten(0, 1).cpu().numpy())
