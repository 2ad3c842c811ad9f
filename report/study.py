"""The tables of docs/integer-study.md: ``python -m sinai.report.study``, `make study`."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..common.errors import InputError
from ..common.scheme import Scheme
from ..traces import networks
from .options import data_option, device_option, directory, force, need_torch
from .output import fresh_directory
from .progress import bar
from .run import versions
from .status import exit_status

if TYPE_CHECKING:
    from ..model.checkpoint import Checkpoint
    from ..model.data import Images

__all__ = ["COLUMNS", "main", "markdown", "measure", "paired", "table", "write"]

#: Images whose z~ set the static thresholds.
_CALIBRATION = 256

#: Depth above which `k` = depth is not measured unasked.
_DEEPEST = 1000

#: Columns of study.csv, in order; accuracies, differences and their standard errors are shares.
COLUMNS = (
    "checkpoint",
    "variant",
    "scheme",
    "images",
    "fit_images",
    "least_k",
    "most_k",
    "unexplained",
    "accuracy",
    "accuracy_se",
    "difference",
    "difference_se",
)


def paired(right: Sequence[int], base: Sequence[int]) -> tuple[float, float]:
    """Difference of two accuracies on the same images, and its standard error."""
    each = np.subtract(right, base)
    return float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each)))


def table(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of study.csv from what :func:`measure` returned."""
    from ..model.study import BASE

    rows = []
    for checkpoint, made in found.items():
        cells, about = made["variants"], made["about"]
        base = cells.get(BASE)
        for variant, cell in cells.items():
            depths = cell["rows"].values()
            for scheme, right in cell["right"].items():
                share = float(np.mean(right))
                difference, error = None, None  # the base itself, or not measured
                if base is not None and variant != BASE:
                    difference, error = paired(right, base["right"][scheme])
                rows.append(
                    {
                        "checkpoint": checkpoint,
                        "variant": variant,
                        "scheme": scheme,
                        "images": len(right),
                        "fit_images": about["fit_images"],
                        "least_k": min(depths),
                        "most_k": max(depths),
                        "unexplained": round(float(np.mean([*cell["unexplained"].values()])), 4),
                        "accuracy": round(share, 4),
                        "accuracy_se": round(math.sqrt(share * (1 - share) / len(right)), 4),
                        "difference": difference if difference is None else round(difference, 4),
                        "difference_se": error if error is None else round(error, 4),
                    }
                )
    return rows


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables of every checkpoint for a reader."""
    from ..model.study import VARIANTS

    parts, rows = [], table(found)
    for checkpoint, made in found.items():
        about = made["about"]
        schemes = list(dict.fromkeys(s for c in made["variants"].values() for s in c["right"]))
        lines = [
            f"## {checkpoint}",
            "",
            f"{about['images']} test images of {about['data']}, W~ fitted on"
            f" {about['fit_images']} training images.",
            "",
            f"| variant | | k | z unexplained | {' | '.join(schemes)} |",
            f"|---|---|---|--:|{'--:|' * len(schemes)}",
        ]
        for variant in made["variants"]:
            mine = [r for r in rows if (r["checkpoint"], r["variant"]) == (checkpoint, variant)]
            first = mine[0]
            left = f"{100 * first['unexplained']:.1f} %"
            cells = [f"{first['least_k']} .. {first['most_k']}", left, *map(_accuracy, mine)]
            lines.append(f"| {variant} | {VARIANTS[variant].meaning} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
        if made["thresholds"]:
            parts.append(_thresholds(made["thresholds"], about))
    return "\n\n".join(parts) + "\n"


def _accuracy(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_se']:.1f} %"
    return f"{100 * row['difference']:+.1f} ± {100 * row['difference_se']:.1f}"


def _thresholds(cells: Mapping[str, Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    lines = [
        f"One theta a layer, from {about['calibration']} training images, instead of Top-K of each"
        " image; the checkpoint's own integers:",
        "",
        "| scheme | Top-K of each image | one theta | noise, mean | by image, deviation | by image,"
        " least .. most | by layer, least .. most |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for scheme, cell in cells.items():
        right, noise = cell["right"], np.asarray(cell["noise"]["static"])
        share = float(np.mean(right["sample"]))
        error = math.sqrt(share * (1 - share) / len(noise))
        difference, difference_se = paired(right["static"], right["sample"])
        layers = cell["layers"].values()
        lines.append(
            f"| {scheme} | {100 * share:.1f} ± {100 * error:.1f} % |"
            f" {100 * difference:+.1f} ± {100 * difference_se:.1f} | {100 * noise.mean():.2f} % |"
            f" {100 * noise.std():.2f} | {100 * noise.min():.1f} .. {100 * noise.max():.1f} % |"
            f" {100 * min(layers):.1f} .. {100 * max(layers):.1f} % |"
        )
    return "\n".join(lines)


def write(found: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write study.md, study.csv and study.json, which holds what became of every image."""
    (folder / "study.md").write_text(markdown(found), encoding="utf-8")
    with (folder / "study.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table(found))
    record = {"schema": 1, "versions": versions(), "checkpoints": found}
    text = json.dumps(record, indent=1, allow_nan=False)
    (folder / "study.json").write_text(text + "\n", encoding="utf-8")


def measure(
    checkpoint: Checkpoint,
    train: Images,
    test: Images,
    variants: Sequence[str],
    schemes: Sequence[str],
    *,
    images: int,
    fit_images: int,
    cells: Path,
    bar: Callable[[str], Any],
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure a checkpoint; each variant and threshold is kept in the directory `cells` once it is
    done, and taken from there if data, numbers and versions are the same."""
    from ..model.evaluate import spread
    from ..model.study import measure_thresholds, measure_variant

    fitted = train.take(spread(len(train), min(fit_images, len(train)))).images
    chosen = test.take(spread(len(test), min(images, len(test))))
    static = train.take(spread(len(train), min(_CALIBRATION, len(train)))).images
    about = {
        "model_digest": checkpoint.digest,
        "data": test.name,
        "images": len(chosen),
        "fit_images": len(fitted),
        "calibration": len(static),
    }
    raw = hashlib.sha256(chosen.images.tobytes() + fitted.tobytes() + static.tobytes())
    identity = {**about, "images_sha256": raw.hexdigest(), "versions": versions()}

    def cell(name: str, run: Callable[[Callable[[int, int], None]], Any]) -> Any:
        path = cells / f"{checkpoint.name}-{name.replace(':', '-')}.json"
        kept = _kept(path, identity)
        if kept is None:
            with bar(f"{checkpoint.name} {name}") as shown:

                def progress(done: int, of: int) -> None:
                    shown.total = of
                    shown.update(done - shown.n)

                kept = run(progress)
            cells.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".part")
            aside.write_text(json.dumps({"identity": identity, "found": kept}), encoding="utf-8")
            aside.replace(path)
        return kept

    given = (chosen.images, chosen.labels)
    return {
        "about": about,
        "variants": {
            name: cell(
                f"{name}-{'-'.join(schemes)}",
                lambda p, name=name: measure_variant(
                    checkpoint, name, fitted, *given, schemes, device=device, progress=p
                ),
            )
            for name in variants
        },
        "thresholds": {
            scheme: cell(
                f"theta-{scheme}",
                lambda p, scheme=scheme: measure_thresholds(
                    checkpoint, scheme, static, *given, progress=p
                ),
            )
            for scheme in schemes
            if Scheme.parse(scheme).kind == "unstructured"
        },
    }


def _kept(path: Path, identity: Mapping[str, Any]) -> Any:
    """What an earlier run of the same left at `path`, or None."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        return made["found"] if made["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@data_option
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    default=("tiny", "resnet18-cifar10jpeg"),
    show_default=True,
    help="Checkpoint: a directory, or the name of a bundled one. Repeatable.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="NAME",
    help="Variant to measure. Repeatable; by default all, but those whose k is the depth only where"
    " no layer is deeper than 1000: there they take hours, and more images to fit.",
)
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    default=("unstructured:0.9", "structured:7:8"),
    show_default=True,
    help="Noise scheme. Repeatable.",
)
@click.option(
    "--images", type=click.IntRange(2), default=1000, show_default=True, help="Test images."
)
@click.option(
    "--fit-images",
    type=click.IntRange(2),
    default=500,
    show_default=True,
    help="Training images on which every variant's W~ is fitted.",
)
@device_option
@directory(default="build/study")
@force
def _command(
    data: str,
    checkpoints: tuple[str, ...],
    variants: tuple[str, ...],
    schemes: tuple[str, ...],
    images: int,
    fit_images: int,
    device: str,
    output: Path,
    force: bool,
) -> None:
    """Measure what the accelerator's choices cost in accuracy.

    W~ is fitted anew for every variant of the approximate path, and Top-K is compared with one
    threshold a layer. DIR gets study.md, study.csv and study.json. Each variant is kept beside DIR
    once it is done: interrupted, the same command goes on. Thresholds are measured on the CPU,
    whatever the device.
    """
    need_torch("study")
    from ..model.checkpoint import load
    from ..model.data import load as load_data
    from ..model.device import pick
    from ..model.study import VARIANTS

    for name in variants:
        if name not in VARIANTS:
            raise InputError(f"--variant must be one of {', '.join(VARIANTS)}, not {name!r}")
    device = pick(device)
    schemes = tuple(dict.fromkeys(str(Scheme.parse(scheme)) for scheme in schemes))
    loaded = [load(name) for name in checkpoints]
    names = [each.name for each in loaded]
    if len({*names}) < len(names):
        raise InputError(
            f"--checkpoint must be of different names, not {', '.join(names)}; rename a directory"
        )
    with fresh_directory(output, marker="study.json", force=force) as aside:
        train, test = load_data(data, "train"), load_data(data, "test")
        found = {
            each.name: measure(
                each,
                train,
                test,
                variants or _affordable(each),
                schemes,
                images=images,
                fit_images=fit_images,
                cells=output.absolute().with_name(f".{output.name}.cells"),
                bar=lambda what: bar(what, "image"),
                device=device,
            )
            for each in loaded
        }
        write(found, aside)
    click.echo(markdown(found), nl=False)


def _affordable(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Variants that are measured unasked."""
    from ..model.study import VARIANTS

    deep = max(layer.d for layer in networks.layers(checkpoint.manifest.network)) > _DEEPEST
    full = [name for name, each in VARIANTS.items() if each.changes.get("k") == "full"]
    return tuple(name for name in VARIANTS if not (deep and name in full))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (of the process by default) and return its exit status."""
    return exit_status(_command, "study", argv)


if __name__ == "__main__":
    raise SystemExit(main())
