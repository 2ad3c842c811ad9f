"""The two sizes of every experiment: `tiny` for minutes on a CPU, `full` as in the paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

from .attacks import Settings
from .finetune import FineTuning
from .layerwise import Distillation
from .recipes import RECIPES, Recipe

__all__ = ["SCALES", "Scale", "caps"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What an experiment costs; everything else is the same at every scale.

    Parameters
    ----------
    recipes : mapping of str to Recipe
        Training of each network of the paper, the model that stands for it included. Fine-tuning
        attacks by PGD with the recipe's numbers, or not at all where the recipe does not.
    distillation, tuning : mapping of str to Distillation and FineTuning
        By network; ``""`` for those not named. Schemes of `tuning` are the experiment's.
    settings : Settings
        Of the attacks.
    coarse : bool
        Whether the points between the others of figures 3 and 4 are left out.
    images : int
        Test images, spread evenly; 0 for all.
    train_images : int
        Training images, spread evenly; 0 for all.
    tuning_images : int
        How many of them distillation and fine-tuning take; 0 for all.
    pool : int
        Members of a pool.
    batch : int
        Images that are attacked together.
    stand_in : bool
        Whether rows of ImageNet are run on CIFAR-10 where ImageNet is not given.
    """

    recipes: Mapping[str, Recipe]
    distillation: Mapping[str, Distillation]
    tuning: Mapping[str, FineTuning]
    settings: Settings
    coarse: bool
    images: int
    train_images: int
    tuning_images: int
    pool: int
    batch: int
    stand_in: bool

    def of(self, table: Mapping[str, object], network: str) -> object:
        """The entry of `network` in `distillation` or `tuning`."""
        return table.get(network, table[""])


_RICE = RECIPES["rice"]
_FAST = RECIPES["fast"]

#: Adversarial training of the tiny networks: many small steps, and float32, which CPUs without
#: bfloat16 run seven times as fast.
_SMALL = replace(_FAST, batch=32, peak_lr=0.1, weight_decay=1e-4, attack_steps=2, bfloat16=False)

SCALES = {
    "tiny": Scale(
        recipes={
            "resnet18": replace(_SMALL, model="tiny", resolutions=(16, 16, 24, 24, 32, 32)),
            "wrn34_10": replace(_SMALL, model="tiny_wrn", resolutions=(16, 16, 24, 24, 32)),
            "resnet50": replace(_SMALL, model="tiny_resnet50", resolutions=(32,) * 8, eps=4 / 255),
            "vit_b16": replace(
                RECIPES["clean"],
                model="tiny_vit",
                resolutions=(32,) * 20,
                peak_lr=0.1,
                bfloat16=False,
            ),
        },
        distillation={"": Distillation(epochs=4, batch=64)},
        tuning={"": FineTuning(batch=64)},
        settings=Settings(autoattack_steps=5, queries=100, cw_steps=50, eot=4, unbounded_steps=50),
        coarse=True,
        images=100,
        train_images=8000,
        tuning_images=640,
        pool=3,
        batch=100,
        stand_in=True,
    ),
    "full": Scale(
        recipes={
            "resnet18": replace(_RICE, model="resnet18"),
            "wrn34_10": replace(_RICE, model="wrn34_10"),
            "resnet50": RECIPES["imagenet"],
            "vit_b16": replace(RECIPES["clean"], model="vit_b16", resolutions=(224,) * 90),
        },
        distillation={"": Distillation(), "resnet50": Distillation(optimizer="adamw", lr=0.01)},
        tuning={"": FineTuning(), "resnet50": FineTuning(epochs=10, batch=64)},
        settings=Settings(),
        coarse=False,
        images=0,
        train_images=0,
        tuning_images=0,
        pool=4,
        batch=250,
        stand_in=False,
    ),
}


def caps(scale: Scale, networks: Iterable[str], images: int, train_images: int) -> list[str]:
    """Return, a line each, what keeps a run of these networks from being the paper's protocol.

    Parameters
    ----------
    networks : iterable of str
        Networks of the paper that the experiment needs.
    images, train_images : int
        Numbers of images in use; 0 for all.
    """
    full, lines = SCALES["full"], []
    for network in networks:
        ours, theirs = scale.recipes[network], full.recipes[network]
        if ours != theirs:
            lines.append(f"{network} is `{ours.model}`: {_recipe(ours)}, not {_recipe(theirs)}")
        for what, table, wanted in (
            ("distilled", scale.distillation, full.distillation),
            ("fine-tuned", scale.tuning, full.tuning),
        ):
            epochs, of = scale.of(table, network).epochs, full.of(wanted, network).epochs
            if epochs != of:
                lines.append(f"{network} is {what} for {epochs} epochs, not {of}")
    if train_images:
        lines.append(f"at most {train_images} training images")
    if scale.tuning_images:
        lines.append(f"{scale.tuning_images} of them to distil and fine-tune on")
    if images:
        lines.append(f"at most {images} test images: one is {100 / images:.3g} %")
    for field in fields(Settings):
        ours, theirs = (getattr(each.settings, field.name) for each in (scale, full))
        if ours != theirs:
            lines.append(f"{field.name.replace('_', ' ')} of attacks {ours:g}, not {theirs:g}")
    if scale.coarse:
        lines.append("figures 3 and 4 have half of their points")
    return lines


def _recipe(recipe: Recipe) -> str:
    kind = {"none": "clean", "fgsm": "one-step adversarial", "pgd": "PGD adversarial"}
    sides = recipe.resolutions
    pixels = f"{min(sides)} to {max(sides)}" if min(sides) < max(sides) else f"{sides[0]}"
    return f"{len(sides)} epochs of {kind[recipe.adversary]} training at {pixels} pixels"
