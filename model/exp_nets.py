"""Networks of the experiments: trained, converted, distilled and fine-tuned once, then kept.

Everything is kept in one folder under names that say what it is and digest what decides it: recipe,
data and seed. So experiments share networks, and an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.errors import InputError
from .data import Images, load
from .evaluate import spread
from .exp_plan import DATASETS, Subject
from .exp_scales import Scale
from .finetune import FineTuning, adversary, finetune
from .layerwise import Distillation, distill_layers
from .pool import Pool
from .recipes import Recipe
from .sinai import convert, layers_of
from .train import train
from .weights import digest, load_converted

__all__ = ["Networks", "Source", "sources"]

#: Called as ``tell(what, done, of)``.
Tell = Callable[[str, int, int], None]

_DEFENCES = {"OAT": "none", "PNI": "pni", "L2P": "l2p", "RPF": "rpf"}

_LAYERS: dict[str, dict[str, Any]] = {
    "convolutions": {},
    "FFN": {"linear": True, "only": "blocks.*.mlp.*"},
    "FFN + attention": {"linear": True, "only": ("blocks.*.mlp.*", "blocks.*.attn.*")},
}


@dataclass(frozen=True, eq=False)
class Source:
    """A data set on the command line, read when it is needed.

    Parameters
    ----------
    spec : str
        ``KIND:PATH``.
    train_images : int
        Training images to use at most, spread evenly; 0 for all. Their order is drawn.
    """

    spec: str
    train_images: int = 0

    @cached_property
    def test(self) -> Images:
        return load(self.spec, "test")

    @property
    def side(self) -> int:
        """Of the images, in pixels."""
        return self.test.images.shape[-1]

    @cached_property
    def train(self) -> Images:
        data = load(self.spec, "train")
        if data.classes != self.test.classes:
            raise InputError(
                f"{self.spec}: classes of train and test differ; give one data set with both"
            )
        count = min(self.train_images or len(data), len(data))
        # Folders come class by class, and steps are set on the first few hundred images.
        return data.take(np.random.default_rng(0).permutation(spread(len(data), count)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is trained on."""
        total = hashlib.sha256(json.dumps(self.train.classes).encode())
        total.update(self.train.images.tobytes())
        total.update(self.train.labels.tobytes())
        return total.hexdigest()


def sources(specs: tuple[str, ...], train_images: int = 0) -> dict[str, Source]:
    """Return the data set of the paper that each of `specs` stands for, by its number of classes.

    Raises
    ------
    InputError
        If a data set cannot be read, has another number of classes, or two have the same.
    """
    found: dict[str, Source] = {}
    for spec in specs:
        source = Source(spec, train_images)
        classes = len(source.test.classes)
        if classes not in DATASETS:
            known = ", ".join(f"{count} ({name})" for count, name in DATASETS.items())
            raise InputError(f"--data {spec}: must have {known} classes, not {classes}")
        name = DATASETS[classes]
        if name in found:
            raise InputError(
                f"--data {spec}: has {classes} classes as {found[name].spec} has; give one of both"
            )
        found[name] = source
    return found


class Networks:
    """The networks of one scale and seed, made when they are asked for.

    Parameters
    ----------
    scale : Scale
    data : mapping of str to Source
        By the paper's data set.
    folder : Path
        Where they are kept.
    device : {"cpu", "cuda"}
    seed : int
        Of training, P, the order of images and all draws.
    tell : callable, optional
    """

    def __init__(
        self,
        scale: Scale,
        data: Mapping[str, Source],
        folder: Path,
        *,
        device: str = "cpu",
        seed: int = 0,
        tell: Tell | None = None,
    ):
        self.scale, self.data, self.folder = scale, data, folder
        self.device, self.seed = device, seed
        self.tell = tell or (lambda what, done, of: None)
        self._last: tuple[Subject, nn.Module] | None = None

    def get(self, subject: Subject) -> nn.Module:
        """The network, in eval mode on the CPU; its scheme is whatever the last user has set."""
        if self._last is None or self._last[0] != subject:
            self._last = None  # frees the one before
            self._last = subject, self._make(subject)
        return self._last[1].cpu()

    def recipe(self, subject: Subject) -> Recipe:
        """How the network that `subject` starts from is trained; of few images, a tenth at most is
        held out, and a step takes no more than there are."""
        recipe = self.scale.recipes[subject.network]
        images = len(self.data[subject.dataset].train)
        held = min(recipe.validation, images // 10)
        return replace(
            recipe,
            defence=_DEFENCES.get(subject.method, "none"),
            validation=held,
            batch=min(recipe.batch, images - held),
            seed=self.seed,
        )

    def recipes(self, subject: Subject) -> dict[str, Any]:
        """Everything that made the network, by what was done, as it was done: ``training`` and, of
        SINAI, ``distillation`` and ``tuning``."""
        made = {"training": asdict(self.recipe(subject))}
        if subject.method == "SINAI":
            made["distillation"] = asdict(self._distillation(subject))
            made["tuning"] = asdict(self._tuning(subject))
        return made

    def name(self, subject: Subject) -> str:
        """Name of the folder that holds the finished network."""
        recipe, source = self.recipe(subject), self.data[subject.dataset]
        made = {"recipe": asdict(recipe), "data": source.digest}
        words = [recipe.model, subject.method]
        if subject.method == "SINAI":
            made |= {
                "images": self.scale.tuning_images,
                "subject": asdict(replace(subject, pool=False)),
                "distillation": asdict(self.scale.of(self.scale.distillation, subject.network)),
                "tuning": asdict(self.scale.of(self.scale.tuning, subject.network)),
            }
            words.append("-".join(f"{text}" for text in subject.tuned).replace(":", "_"))
        return "-".join([*words, hashlib.sha256(json.dumps(made).encode()).hexdigest()[:12]])

    def _make(self, subject: Subject) -> nn.Module:
        if subject.method == "SINAI":
            net = self._tuned(subject)
            return self._pool(net, subject) if subject.pool else net
        name = self.name(subject)

        def show(done: int, of: int, loss: float, hit: float) -> None:
            self.tell(f"training {name}", done, of)

        return train(
            self.recipe(subject),
            self.data[subject.dataset].train,
            self.folder / name,
            progress=show,
            device=self.device,
        )

    def _tuned(self, subject: Subject) -> nn.Module:
        """Convert the trained network, distil its layers and fine-tune it."""
        name = self.name(subject)
        folder = self.folder / name
        if (folder / "net.pt").exists():
            return load_converted(folder / "net.pt")[0]
        base = Subject(network=subject.network, dataset=subject.dataset)
        net = self._make(base)
        source = {"name": self.name(base), "digest": digest(net)}
        net = convert(net, seed=self.seed, bits=subject.bits, **_LAYERS[subject.layers])
        self._distil(net.to(self.device), subject, folder, f"distilling {name}")
        recipe = self.recipe(base)
        attacker, said = adversary(recipe)

        def show(done: int, of: int, task: float, error: float) -> None:
            self.tell(f"fine-tuning {name}", done, of)

        return finetune(
            net,
            *self._learned(subject),
            folder,
            self._tuning(subject),
            attack=attacker,
            network=recipe.model,
            told={
                "source": source,
                "data": self.data[subject.dataset].train.name,
                "attack": said,
                "distillation": asdict(self._distillation(subject)),
            },
            training={"recipe": asdict(recipe), "data": self.data[subject.dataset].train.name},
            progress=show,
        )

    def _pool(self, net: nn.Module, subject: Subject) -> Pool:
        """Other P for each further member, whose W~ are distilled; W and b are shared."""
        pool = Pool(net, self.scale.pool, seed=self.seed).to(self.device)
        name = self.name(subject)
        for index, member in enumerate(pool.members[1:], start=1):
            for layer in layers_of(member):
                layer.x_step.zero_()  # so that distillation sets the steps for this P
            what = f"distilling member {index} of {name}"
            self._distil(member, subject, self.folder / name / f"p{index}", what)
        return pool.eval()

    def _learned(self, subject: Subject) -> tuple[Tensor, Tensor]:
        """Images and labels that distillation and fine-tuning take."""
        data = self.data[subject.dataset].train
        most = self.scale.tuning_images or len(data)
        return torch.from_numpy(data.images[:most]), torch.from_numpy(data.labels[:most])

    def _distillation(self, subject: Subject) -> Distillation:
        """Of few images, a step takes no more than there are; likewise in fine-tuning."""
        recipe = self.scale.of(self.scale.distillation, subject.network)
        batch = min(recipe.batch, len(self._learned(subject)[0]))
        return replace(recipe, batch=batch, seed=self.seed)

    def _tuning(self, subject: Subject) -> FineTuning:
        recipe = self.scale.of(self.scale.tuning, subject.network)
        batch = min(recipe.batch, len(self._learned(subject)[0]))
        return replace(recipe, schemes=subject.tuned, batch=batch, seed=self.seed)

    def _distil(self, net: nn.Module, subject: Subject, folder: Path, what: str) -> None:
        distill_layers(
            net,
            self._learned(subject)[0],
            folder,
            self._distillation(subject),
            progress=lambda done, of, loss: self.tell(what, done, of),
        )
