"""Exit codes, as the manual promises them."""

import pytest

from sinai.common import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.CheckError, 1),
        (errors.InputError, 2),
        (errors.MissingError, 3),
        (errors.SinaiError, 70),
    ],
)
def test_exit_codes(kind, code):
    assert kind("why").exit_code == code
    assert issubclass(kind, errors.SinaiError)


def test_bad_input_is_a_value_error():
    """So that users of the Python API can catch it without knowing our classes."""
    assert issubclass(errors.InputError, ValueError)
