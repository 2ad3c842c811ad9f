"""Recipes of training: everything that decides a run besides the data."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..common.errors import InputError

__all__ = ["RECIPES", "Recipe"]

_CHOICES = {
    "adversary": ("none", "fgsm", "pgd"),
    "schedule": ("one-cycle", "steps"),
}


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
    schedule : {"one-cycle", "steps"}
        Learning rate: up from a tenth of `peak_lr` and down to zero along a cosine; or `peak_lr`,
        a tenth of it after each of `milestones`.
    peak_lr : float
        Largest learning rate.
    warmup : float
        Share of the steps before the peak of a one-cycle schedule, in (0, 1).
    milestones : tuple of float
        Shares of the steps after which a schedule of steps falls.
    weight_decay, momentum, label_smoothing : float
        The usual. Batch-norms and biases do not decay.
    adversary : {"none", "fgsm", "pgd"}
        What each batch is replaced by (:mod:`sinai.model.adversary`).
    eps, attack_step, attack_steps : float, float, int
        Largest change of a value in [0, 1]; step and steps of ``pgd``.
    validation : int
        Training images held out, spread evenly, and attacked by PGD after every epoch: the epoch
        of the most right answers is kept, as Rice et al. 2020 stop. 0 keeps the last.
    defence : str
        Name in :data:`sinai.model.baselines.DEFENCES`.
    bfloat16 : bool
        Run convolutions in bfloat16 (weights and sums stay float32).
    seed : int
        Seeds the initial weights, the order of the images, the augmentation and the adversary.

    Raises
    ------
    InputError
        If a number is out of range.
    """

    model: str = "resnet18"
    resolutions: tuple[int, ...] = (16, 16, 24, 24, 32, 32)
    batch: int = 128
    schedule: str = "one-cycle"
    peak_lr: float = 0.2
    warmup: float = 0.25
    milestones: tuple[float, ...] = (0.5, 0.75)
    weight_decay: float = 5e-4
    momentum: float = 0.9
    label_smoothing: float = 0.1
    adversary: str = "none"
    eps: float = 8 / 255
    attack_step: float = 2 / 255
    attack_steps: int = 10
    validation: int = 0
    defence: str = "none"
    bfloat16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} must be {', '.join(known[:-1])} or {known[-1]}, not"
                    f" {getattr(self, name)!r}"
                )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("batch", "attack_steps") and value < 1:
                raise InputError(f"{field.name} must be at least 1, not {value}")
            if field.name in ("eps", "attack_step", "warmup") and not 0 < value < 1:
                raise InputError(f"{field.name} must be above 0 and below 1, not {value:g}")
            if field.name in ("seed", "validation") and value < 0:
                raise InputError(f"{field.name} must be at least 0, not {value}")
        if not self.peak_lr > 0:
            raise InputError(f"peak_lr must be above 0, not {self.peak_lr:g}")
        if not self.resolutions or min(self.resolutions) < 8:
            raise InputError(
                "resolutions must be one side an epoch, each at least 8 pixels, not"
                f" {self.resolutions}"
            )
        if list(self.milestones) != sorted(self.milestones):
            raise InputError(f"milestones must rise, not {self.milestones}")


#: Recipes by name. ``clean``: small budgets, no attacks. ``fast``: adversarial training for small
#: budgets, one step an image. ``rice``: the paper's protocol (appendix D; Rice et al. 2020).
#: ``imagenet``: the paper's for ImageNet; where its learning rate falls is assumed.
RECIPES = {
    "clean": Recipe(),
    "fast": Recipe(resolutions=(32,) * 30, adversary="fgsm", label_smoothing=0.0),
    "rice": Recipe(
        model="preactresnet18",
        resolutions=(32,) * 200,
        schedule="steps",
        peak_lr=0.1,
        label_smoothing=0.0,
        adversary="pgd",
        validation=1000,
    ),
    "imagenet": Recipe(
        model="resnet50",
        resolutions=(224,) * 90,
        batch=64,
        schedule="steps",
        peak_lr=0.02,
        milestones=(1 / 3, 2 / 3),
        label_smoothing=0.0,
        adversary="pgd",
        eps=4 / 255,
        attack_step=2 / 255,
        attack_steps=2,
    ),
}
