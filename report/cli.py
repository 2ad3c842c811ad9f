"""The `sinai` command: parse, call one function, report. No work is done here.

What a verb needs is imported when the verb runs, so that `--version` and `--help` answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from . import (
    verbs_attack,
    verbs_bitops,
    verbs_cycles,
    verbs_exp,
    verbs_finetune,
    verbs_machine,
    verbs_model,
    verbs_trace,
    verbs_tradeoff,
    verbs_validate,
)
from .status import exit_status

__all__ = ["main", "sinai"]


class _Verbs(click.Group):
    """Verbs in the order in which they are added, which is the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done; 1 a check failed; 2 bad input; 3 something to install is missing;"
    " 70 a bug of ours, with a traceback.",
)
@click.version_option(package_name="sinai", message="%(prog)s %(version)s")
def sinai() -> None:
    """Networks with injected noise on an open accelerator.

    Results go to standard output or to the directory or file after -o, progress and messages to
    standard error. An existing -o is refused unless --force is given; results are built aside and
    renamed, so an old one is never half overwritten.

    \b
    Examples:
      sinai figure5 -o figure5
      sinai trace synth --model resnet18 --scheme structured:7:8 -o masks.npz
      sinai run masks.npz --machine structured -o run
    """


for _verb in (
    *verbs_machine.VERBS,
    *verbs_cycles.VERBS,
    *verbs_bitops.VERBS,
    *verbs_trace.VERBS,
    *verbs_validate.VERBS,
    *verbs_model.VERBS,
    *verbs_finetune.VERBS,
    *verbs_attack.VERBS,
    *verbs_exp.VERBS,
    *verbs_tradeoff.VERBS,
):
    sinai.add_command(_verb)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (of the process by default) and return its exit status."""
    return exit_status(sinai, "sinai", argv)
