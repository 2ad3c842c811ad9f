"""The tables and figures of the paper's evaluation as data: which network, under which attack.

Nothing is computed here, and PyTorch is not loaded. What a point needs is trained by
:mod:`sinai.model.exp_nets` and measured by :mod:`sinai.model.exp_run`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["DATASETS", "EXPERIMENTS", "Experiment", "Point", "Subject"]

#: Data sets of the paper by their number of classes.
DATASETS = {10: "CIFAR-10", 100: "CIFAR-100", 1000: "ImageNet"}

#: Schemes that one network is fine-tuned for, in turn; it serves all others as well.
_TUNED = ("unstructured:0.9", "structured:7:8")

_NOISY = "unstructured:0.9"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network under test, by how it is made.

    Parameters
    ----------
    network : {"resnet18", "wrn34_10", "resnet50", "vit_b16"}
        As in the paper; a scale may put a smaller one in its place.
    dataset : str
        One of :data:`DATASETS`.
    method : {"OAT", "PNI", "L2P", "RPF", "SINAI"}
        ``OAT`` is the adversarially trained network that SINAI starts from (paper, section 4).
    bits : int
        Of W~ (paper, Table 5).
    layers : {"convolutions", "FFN", "FFN + attention"}
        What becomes SINAI layers.
    tuned : tuple of str
        Schemes of the fine-tuning, in turn.
    pool : bool
        A pool of networks with other P and W~, of which each forward pass draws one.
    """

    network: str
    dataset: str
    method: str = "OAT"
    bits: int = 4
    layers: str = "convolutions"
    tuned: tuple[str, ...] = ()
    pool: bool = False


@dataclass(frozen=True, kw_only=True)
class Point:
    """One accuracy to measure: a row of a table.

    Parameters
    ----------
    subject : Subject
    scheme : str
    attack : str
        Key of :data:`sinai.model.attacks.ATTACKS`, or ``none``.
    label : str
        Name of the attack as tables have it.
    changes : tuple of (str, number)
        Fields of :class:`sinai.model.attacks.Settings` that differ from the scale's.
    score : {"value", "inverse"}
        What ranks neurons; ``inverse`` makes noise of the essential ones (paper, Figure 4 c, d).
    gradients : tuple of str
        Views (:mod:`sinai.model.gradients`) that the attack is crafted on; by default
        straight-through and as in the paper.
    variant : str
        What else tells rows apart.
    fine : bool
        Whether a coarse scale may do without it.
    """

    subject: Subject
    scheme: str
    attack: str
    label: str
    changes: tuple[tuple[str, float], ...] = ()
    score: str = "value"
    gradients: tuple[str, ...] = ()
    variant: str = ""
    fine: bool = False


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure.

    Parameters
    ----------
    title : str
    points : tuple of Point
        In the order of rows.
    notes : tuple of str
        What a reader must know of the paper's form of it and of ours.
    summary : tuple of str
        Rows that each network gets at its end: ``average``, the mean over attacks, and ``all
        bounded``, their minimum.
    bitops : str
        Number of the paper's table of BitOPs; empty where it gives none.
    """

    title: str
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    summary: tuple[str, ...] = ()
    bitops: str = ""


def _sinai(network: str, dataset: str, **changes: object) -> Subject:
    return Subject(
        **{"network": network, "dataset": dataset, "method": "SINAI", "tuned": _TUNED} | changes
    )


def _methods(network: str, dataset: str) -> Iterator[tuple[Subject, str]]:
    """The five methods of tables 1 and 2, and the scheme of each."""
    for method in ("OAT", "PNI", "L2P", "RPF"):
        yield Subject(network=network, dataset=dataset, method=method), "dense"
    yield _sinai(network, dataset), _NOISY


def _rows(subject: Subject, scheme: str, attacks: Sequence[str], **more: object) -> list[Point]:
    """Points of one network under attacks by their labels in :data:`_ATTACKS`."""
    return [
        Point(subject=subject, scheme=scheme, label=label, **_ATTACKS[label] | more)
        for label in attacks
    ]


def _pgd(steps: int, eps: int) -> tuple[str, dict[str, object]]:
    """PGD under other numbers than PGD-20 at 8/255: label and fields."""
    label = f"PGD-{steps}" + (f", eps {eps}/255" if eps != 8 else "")
    changes = (("steps", steps), ("eps", eps / 255))
    usual = {"steps": 20, "eps": 8 / 255}
    differing = tuple((name, value) for name, value in changes if value != usual[name])
    fine = steps == 100 or (steps != 20 and eps in (4, 12))
    return label, {"attack": "pgd", "changes": differing, "fine": fine}


#: Grid of figure 3, which names neither: eps in 255ths, steps.
_EPS = (4, 8, 12, 16)
_STEPS = (10, 20, 50, 100)

_ATTACKS: dict[str, dict[str, object]] = {
    "none": {"attack": "none"},
    "FGSM": {"attack": "fgsm"},
    "MIFGSM": {"attack": "mifgsm"},
    "C&W": {"attack": "cw"},
    "C&W, c = 1": {"attack": "cw", "changes": (("cw_c", 1.0),)},
    "AutoAttack": {"attack": "autoattack"},
    "adaptive PGD-20": {"attack": "adaptive"},
    "EOT + PGD-20": {"attack": "eot"},
    "EOT + AutoAttack": {"attack": "autoattack"},
    "Square": {"attack": "square"},
    "random sampling": {"attack": "random"},
    "unbounded PGD": {"attack": "unbounded"},
    **dict(_pgd(steps, eps) for eps in _EPS for steps in _STEPS),
}

_CIFAR = ("CIFAR-10", "CIFAR-100")

_CITED = "Rows without ours are cited by the paper from others, or name what we do not have."


def _table1() -> Experiment:
    attacks = ("none", "PGD-20", "FGSM", "MIFGSM", "C&W", "C&W, c = 1", "AutoAttack")
    return Experiment(
        title="Table 1: ResNet-18 on CIFAR-10 and CIFAR-100, five methods under five attacks",
        points=tuple(
            point
            for dataset in _CIFAR
            for subject, scheme in _methods("resnet18", dataset)
            for point in _rows(subject, scheme, attacks)
        ),
        notes=(
            "C&W with c = 1e-4 is nearly no attack; c = 1 is ours and not in the mean.",
            "The paper's `average` is the mean of its five robust columns.",
        ),
        summary=("average", "all bounded"),
        bitops="1",
    )


def _table2() -> Experiment:
    attacks = ("none", "PGD-20", "FGSM", "MIFGSM", "AutoAttack")
    return Experiment(
        title="Table 2: WideResNet-34-10 on CIFAR-10, five methods under four attacks",
        points=tuple(
            point
            for subject, scheme in _methods("wrn34_10", "CIFAR-10")
            for point in _rows(subject, scheme, attacks)
        ),
        summary=("average", "all bounded"),
        bitops="2",
    )


def _table3() -> Experiment:
    points = []
    for dataset in _CIFAR:
        for subject, scheme in _methods("wrn34_10", dataset):
            if subject.method in ("OAT", "RPF", "SINAI"):
                points += _rows(subject, scheme, ("PGD-20",))
                points += _rows(
                    subject, scheme, ("AutoAttack",), changes=(("autoattack_steps", 10),)
                )
    return Experiment(
        title="Table 3: WideResNet-34-10 beside other defences, AutoAttack of 10 steps",
        points=tuple(points),
        notes=(
            _CITED,
            "With fewer steps AutoAttack is weaker, yet the paper's OAT and SINAI hardly change"
            " from Table 2 (52.30 to 52.52, 69.26 to 69.45) and RPF gains 10.66 points.",
        ),
    )


def _table4() -> Experiment:
    points = []
    tuned = ("unstructured:0.5",)
    for subject, scheme in (
        (Subject(network="resnet50", dataset="ImageNet"), "dense"),
        (Subject(network="resnet50", dataset="ImageNet", method="RPF"), "dense"),
        (_sinai("resnet50", "ImageNet", tuned=tuned), "unstructured:0.5"),
    ):
        eps = ("eps", 4 / 255)
        points += _rows(subject, scheme, ("none",), changes=(eps,))
        for steps in (10, 50):
            points += _rows(subject, scheme, (f"PGD-{steps}",), changes=(("steps", steps), eps))
    return Experiment(
        title="Table 4: ResNet-50 on ImageNet, half of the neurons noisy, eps 4/255",
        points=tuple(points),
        notes=(_CITED,),
        bitops="4",
    )


def _table5() -> Experiment:
    points = []
    for network in ("resnet18", "wrn34_10"):
        attacks = ("none", "PGD-20")
        points += _rows(Subject(network=network, dataset="CIFAR-10"), "dense", attacks)
        for bits in (32, 16, 8, 4, 2):
            variant = "FP32" if bits == 32 else f"INT{bits}"
            points += _rows(
                _sinai(network, "CIFAR-10", bits=bits), _NOISY, attacks, variant=variant
            )
    return Experiment(
        title="Table 5: bits of the noise weights",
        points=tuple(points),
        notes=(
            "Activations of the approximate pass stay in 4 bit in every row.",
            "INT32 is not run: it differs from FP32 by less than a float32 can tell.",
            "The paper calls FP32 the default here; its other tables are of INT4.",
        ),
    )


def _table6() -> Experiment:
    schemes = []
    for ratio, structured in ((1, 1), (2, 2), (3, 4), (5, 6), (8, 7), (9, None)):
        schemes.append(f"unstructured:0.{ratio}")
        if structured:
            schemes.append(f"structured:{structured}:8")
    return Experiment(
        title="Table 6: granularity of the noise, ResNet-18",
        points=tuple(
            point
            for dataset in _CIFAR
            for scheme in schemes
            for point in _rows(_sinai("resnet18", dataset), scheme, ("none", "PGD-20"))
        ),
        bitops="6",
    )


def _table7() -> Experiment:
    return Experiment(
        title="Table 7: the adaptive attack, ResNet-18",
        points=tuple(
            point
            for dataset in _CIFAR
            for subject, scheme in _methods("resnet18", dataset)
            if subject.method in ("OAT", "SINAI")
            for point in _rows(subject, scheme, ("none", "PGD-20", "adaptive PGD-20"))
        ),
        notes=(
            "OAT has no noise to adapt to: there the attack is PGD, as in the paper.",
            "The paper's loss has no weight between its two terms; lambda = 1 is assumed.",
        ),
    )


def _eot(number: int, base: str) -> Experiment:
    points = []
    for dataset in _CIFAR:
        oat = Subject(network="resnet18", dataset=dataset)
        points += _rows(oat, "dense", (base, f"EOT + {base}"))
        points += _rows(_sinai("resnet18", dataset), _NOISY, (base, f"EOT + {base}"))
        pool = _sinai("resnet18", dataset, pool=True)
        once = {"changes": (("eot", 1),), "variant": "pool of P"}
        points += _rows(pool, _NOISY, (base,), **once)
        points += _rows(pool, _NOISY, (f"EOT + {base}",), variant="pool of P")
    return Experiment(
        title=f"Table {number}: expectation over transformation and {base}, ResNet-18",
        points=tuple(points),
        notes=(
            "A network that draws nothing gives EOT the same gradient in every pass: EOT is the"
            " plain attack there, and the figures are equal by construction. The paper's P is"
            " constant, too, so its small differences are those of random starts.",
            "`pool of P`: each forward pass draws one of several networks with other P and W~,"
            " which is how Figure 1 c could be meant. A member has an image right or not; shares"
            " are means over members.",
            *(
                ("On the pool AutoAttack is its version for randomised networks, APGD alone.",)
                if base == "AutoAttack"
                else ()
            ),
        ),
    )


def _table10() -> Experiment:
    attacks = ["none", "FGSM", "Square", "random sampling", "unbounded PGD"]
    attacks += [_pgd(20, eps)[0] for eps in _EPS]
    points = []
    for subject, scheme in _methods("resnet18", "CIFAR-10"):
        if subject.method in ("OAT", "SINAI"):
            points += _rows(subject, scheme, attacks)
    return Experiment(
        title="Table 10: signs of obfuscated gradients (Athalye et al. 2018), ResNet-18",
        points=tuple(points),
        notes=(
            "Items 1 and 2 count if the difference exceeds its standard error, the square root of"
            " the number of images that one of the two attacks alone breaks. Items 3 and 4 count"
            " from one image on, item 5 where twice the eps breaks no more.",
            "Item 3 is PGD with eps = 1. Item 4 draws images within eps at random and counts those"
            " that fool the network where PGD has not. The paper did not run item 4: it argues"
            " from Figure 3.",
        ),
    )


def _table11() -> Experiment:
    return Experiment(
        title="Table 11: Square, an attack without gradients, ResNet-18",
        points=tuple(
            point
            for dataset in _CIFAR
            for subject, scheme in _methods("resnet18", dataset)
            if subject.method in ("OAT", "SINAI")
            for point in _rows(subject, scheme, ("none", "Square"))
        ),
    )


def _table12() -> Experiment:
    attacks, dataset = ("none", "FGSM"), "CIFAR-10"
    points = _rows(Subject(network="vit_b16", dataset=dataset), "dense", attacks)
    for layers in ("FFN", "FFN + attention"):
        subject = _sinai(
            "vit_b16", dataset, layers=layers, tuned=("unstructured:0.3", "unstructured:0.5")
        )
        for tenth in (2, 3, 4, 5):
            points += _rows(subject, f"unstructured:0.{tenth}", attacks, variant=layers)
    return Experiment(
        title="Table 12: vision transformer, noise in the FFN or in FFN and attention",
        points=tuple(points),
        notes=(
            "The paper names neither data set nor training of this table. Ours is trained without"
            " attacks, from scratch; 99 % clean accuracy suggests that the paper's was not.",
        ),
    )


def _fig3() -> Experiment:
    points = []
    for dataset in _CIFAR:
        for subject, scheme in _methods("resnet18", dataset):
            if subject.method in ("OAT", "SINAI"):
                labels = [_pgd(steps, eps)[0] for eps in _EPS for steps in _STEPS]
                points += _rows(subject, scheme, ["none", *labels])
    return Experiment(
        title="Figure 3: stronger PGD, ResNet-18",
        points=tuple(points),
        notes=(
            "The paper prints the figure without numbers and says neither which eps nor which"
            " steps it has; the text gives gains at eps 12/255 and 16/255.",
        ),
    )


def _fig4() -> Experiment:
    ratios = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "0.99")
    fine = ("0.1", "0.3", "0.5", "0.7")
    points = []
    for dataset in _CIFAR:
        oat = Subject(network="resnet18", dataset=dataset)
        points += _rows(oat, "dense", ("none", "PGD-20"))
        for score in ("value", "inverse"):
            for ratio in ratios:
                points += _rows(
                    _sinai("resnet18", dataset),
                    f"unstructured:{ratio}",
                    ("none", "PGD-20"),
                    score=score,
                    variant="" if score == "value" else "inverted selection",
                    fine=ratio in fine,
                )
    return Experiment(
        title="Figure 4: ratio of noise, in the non-essential and in the essential neurons",
        points=tuple(points),
        notes=(
            "The paper's text: clean accuracy begins to fall at 90 % noise, robust accuracy"
            " improves substantially at 60 %; with noise in the essential neurons clean accuracy"
            " is lost at 20 %. The figure has no other numbers.",
            "Inverted selection is put on the same network, which was not fine-tuned for it.",
            "At 0 % stands OAT, the network before conversion.",
        ),
    )


def _masking() -> Experiment:
    views = ("straight-through", "as-in-paper", "dense-path", "dense")
    attacks = ["none", "FGSM", "MIFGSM", "PGD-20", "adaptive PGD-20", "C&W, c = 1", "AutoAttack"]
    attacks += ["unbounded PGD", "Square", "random sampling"]
    points = []
    for scheme in ("dense", _NOISY, "structured:7:8"):
        gradients = () if scheme == "dense" else views
        points += _rows(_sinai("resnet18", "CIFAR-10"), scheme, attacks, gradients=gradients)
    return Experiment(
        title="Gradient masking: every attack with every gradient, one network, ResNet-18",
        points=tuple(points),
        notes=(
            "`dense-path` is BPDA: outputs with noise, the gradient of the exact ones. `dense` is"
            " transfer: the attack sees the network without noise and is judged on the one with.",
            "`unbounded PGD` must reach 0 %: above it the gradient leads nowhere.",
            "The scheme `dense` is the fine-tuned network with its noise switched off.",
        ),
        summary=("all bounded",),
    )


#: Every experiment by name.
EXPERIMENTS: dict[str, Experiment] = {
    "table1": _table1(),
    "table2": _table2(),
    "table3": _table3(),
    "table4": _table4(),
    "table5": _table5(),
    "table6": _table6(),
    "table7": _table7(),
    "table8": _eot(8, "PGD-20"),
    "table9": _eot(9, "AutoAttack"),
    "table10": _table10(),
    "table11": _table11(),
    "table12": _table12(),
    "fig3": _fig3(),
    "fig4": _fig4(),
    "masking": _masking(),
}
