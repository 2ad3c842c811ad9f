"""The errors a user can cause or meet, and the exit code that the command line gives for each."""

__all__ = ["CheckError", "InputError", "MissingError", "SinaiError"]


class SinaiError(Exception):
    """Base of the three below; anything else that escapes is a bug of ours (exit code 70)."""

    exit_code = 70


class CheckError(SinaiError):
    """A check that the user asked for has failed (exit code 1)."""

    exit_code = 1


class InputError(SinaiError, ValueError):
    """Bad input (exit code 2). The message names file, field, value and what would do."""

    exit_code = 2


class MissingError(SinaiError):
    """A tool or an extra is missing (exit code 3). The message says what to install."""

    exit_code = 3
