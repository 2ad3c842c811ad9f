"""A command run to its exit status, whatever happens: one sentence, or the traceback of a bug."""

from __future__ import annotations

import errno
import shlex
import sys
import traceback
from collections.abc import Sequence

import click

from ..common.errors import SinaiError

__all__ = ["exit_status"]

#: Failures of the system, and names that it does not take: no program is to blame for them. A file
#: that is missing (ENOENT) is not among them, since it may be one of ours.
_SYSTEM = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}


def exit_status(
    command: click.Command,
    name: str,
    argv: Sequence[str] | None = None,
    *,
    interrupted: str = "interrupted",
) -> int:
    """Run `command`, called `name`, on `argv`, by default the arguments of the process.

    Returns
    -------
    int
        0 done; 1 a check failed; 2 bad input; 3 something to install is missing; 70 a bug of ours;
        130 interrupted, which the words `interrupted` say on standard error.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    typed = shlex.join([name, *words])  # kept in results

    def say(message: str, status: int) -> int:
        for line in message.splitlines():
            click.echo(f"{name}: {line}", err=True)
        return status

    try:
        return command.main(args=words, prog_name=name, standalone_mode=False, obj=typed) or 0
    except click.ClickException as error:
        error.show()
        return 2
    except SinaiError as error:
        return say(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return say(interrupted, 130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _SYSTEM:
            return say(f"{error.filename or 'output'}: {error.strerror}", 2)
        traceback.print_exc()
        return say("this is a bug of ours; please report it with the lines above", 70)
