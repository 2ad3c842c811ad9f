"""The digest of the code behind a result: what it is made of."""

from sinai.common import sources as module
from sinai.common.sources import COMPARISON, REPLAY, VERILOG, reached, sources


def names(entries):
    return {path.relative_to(module._PACKAGE).as_posix() for path in reached(*entries)}


def test_all_that_is_compared_is_in_it():
    found = names(COMPARISON)
    assert {"sim/unstructured.py", "sim/structured.py", "common/integer.py"} <= found
    assert {"common/contract.py", "common/program.py", "common/machine.py"} <= found
    # Imported in a function.
    assert {"hw/core.py", "hw/unstructured.py", "hw/ranker.py", "hw/driver.py"} <= found
    assert not any(name.startswith(("model/", "traces/")) for name in found)


def test_a_replay_needs_no_hardware():
    found = names(REPLAY)
    assert {"sim/stepped.py", "sim/engine.py", "traces/schema.py"} <= found
    assert not any(name.startswith(("hw/", "report/")) for name in found)


def test_verilog_follows_from_no_program():
    """How a layer is cut into parts, and what it computes, may change without a core to compile."""
    found = names(VERILOG)
    assert {"hw/unstructured.py", "hw/ranker.py", "hw/share.py", "common/contract.py"} <= found
    assert not found & {"common/parts.py", "common/program.py", "common/integer.py"}
    assert not any(name.startswith(("sim/", "report/")) for name in found)


def test_a_change_shows_where_it_is_used(tmp_path, monkeypatch):
    """In a module that is imported from afar, in a C++ source beside it, nowhere else."""
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    for name, text in {
        "a/one.py": "from ..b.two import x\n",
        "b/two.py": "def f():\n    from . import three\n",
        "b/three.py": "import os\n",
        "b/other.py": "",
        "b/driver.cpp": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = sources("a/one.py")
    assert sources("a/one.py") == before
    for name, shows in {"b/three.py": True, "b/driver.cpp": True, "b/other.py": False}.items():
        (tmp_path / name).write_text("# changed\n")
        after = sources("a/one.py")
        assert (after != before) == shows
        before = after
