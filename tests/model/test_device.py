"""Which device is taken, and which is refused."""

import pytest
import torch

from sinai.common.errors import InputError
from sinai.model.device import pick


@pytest.mark.parametrize("found", [False, True])
def test_auto_takes_cuda_where_there_is_one(monkeypatch, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    assert pick("auto") == ("cuda" if found else "cpu")
    assert pick("cpu") == "cpu"


@pytest.mark.parametrize("found", [False, True])
def test_other_names_are_refused(monkeypatch, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    for name in ("mps", "cuda:1", "CPU", ""):
        with pytest.raises(InputError, match=f"device must be auto, cpu or cuda, not '{name}'"):
            pick(name)


def test_cuda_must_be_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick("cuda") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device cuda: this computer has none; give auto or cpu"):
        pick("cuda")
