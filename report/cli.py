"""The `sinai` command: parse, call one function, report. No work is done here.

What a verb needs is imported when the verb runs, so that `--version` and `--help` answer at once.
"""

from __future__ import annotations

import errno
import shlex
import sys
import traceback
from collections.abc import Sequence

import click

from ..common.errors import SinaiError
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

__all__ = ["main", "sinai"]

#: Failures of the system that no input and no program is to blame for.
_SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


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
    words = list(sys.argv[1:] if argv is None else argv)
    typed = shlex.join(["sinai", *words])  # kept in results
    try:
        return sinai.main(args=words, prog_name="sinai", standalone_mode=False, obj=typed) or 0
    except click.ClickException as error:
        error.show()
        return 2
    except SinaiError as error:
        return _say(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", 130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _SYSTEM:
            return _say(f"{error.filename or 'output'}: {error.strerror}", 2)
        traceback.print_exc()
        return _say("this is a bug of ours; please report it with the lines above", 70)


def _say(message: str, status: int) -> int:
    for line in message.splitlines():
        click.echo(f"sinai: {line}", err=True)
    return status
