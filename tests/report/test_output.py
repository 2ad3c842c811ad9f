"""Results are built aside: an old one survives every way to fail."""

import os
import re

import pytest

from sinai.common.errors import InputError
from sinai.report.output import fresh_directory, fresh_file


@pytest.fixture
def old(tmp_path):
    """A finished result, and the bytes in it."""
    path = tmp_path / "result"
    path.mkdir()
    (path / "summary.json").write_text("old")
    (path / "layers.csv").write_text("old too")
    return path


def content(path):
    return {file.name: file.read_text() for file in path.iterdir()}


def test_new_directory_appears_whole(tmp_path):
    target = tmp_path / "a" / "b"
    with fresh_directory(target, marker="summary.json") as aside:
        assert not target.exists()
        (aside / "summary.json").write_text("new")
    assert content(target) == {"summary.json": "new"}
    assert [path.name for path in target.parent.iterdir()] == ["b"]


def test_existing_directory_is_refused(old):
    with (
        pytest.raises(InputError, match="exists already; give another name, or --force"),
        fresh_directory(old, marker="summary.json"),
    ):
        pytest.fail("the block must not run")
    assert content(old) == {"summary.json": "old", "layers.csv": "old too"}


def test_force_replaces_all_of_it(old):
    with fresh_directory(old, marker="summary.json", force=True) as aside:
        (aside / "summary.json").write_text("new")
        assert content(old)["summary.json"] == "old"
    assert content(old) == {"summary.json": "new"}
    assert os.listdir(old.parent) == ["result"]


def test_force_replaces_an_empty_directory(tmp_path):
    target = tmp_path / "empty"
    target.mkdir()
    with fresh_directory(target, marker="summary.json", force=True) as aside:
        (aside / "summary.json").write_text("new")
    assert content(target) == {"summary.json": "new"}


def test_force_spares_what_is_no_result(tmp_path):
    """A home directory given by mistake."""
    (tmp_path / "thesis.tex").write_text("years")
    with (
        pytest.raises(InputError, match=r"holds files but no summary\.json, so --force does not"),
        fresh_directory(tmp_path, marker="summary.json", force=True),
    ):
        pytest.fail("the block must not run")
    assert content(tmp_path) == {"thesis.tex": "years"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("force", [True, False])
def test_failure_leaves_everything_as_it_was(old, error, force):
    target = old if force else old.parent / "other"

    def build():
        with fresh_directory(target, marker="summary.json", force=force) as aside:
            (aside / "summary.json").write_text("half")
            raise error

    with pytest.raises(error):
        build()
    assert content(old) == {"summary.json": "old", "layers.csv": "old too"}
    assert os.listdir(old.parent) == ["result"]


def test_failing_rename_puts_the_old_result_back(old, monkeypatch):
    """The new directory vanishes just before it would take the place of the old one."""
    with (
        pytest.raises(FileNotFoundError),
        fresh_directory(old, marker="summary.json", force=True) as aside,
    ):
        aside.rmdir()
    assert content(old) == {"summary.json": "old", "layers.csv": "old too"}
    assert os.listdir(old.parent) == ["result"]


def test_link_keeps_pointing_at_the_result(old, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(old)
    with fresh_directory(link, marker="summary.json", force=True) as aside:
        (aside / "summary.json").write_text("new")
    assert link.is_symlink()
    assert content(old) == {"summary.json": "new"}


def test_file_in_the_place_of_a_directory(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with (
        pytest.raises(InputError, match="is a file; give the name of a directory"),
        fresh_directory(path, marker="summary.json", force=True),
    ):
        pytest.fail("the block must not run")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("fresh", [fresh_file, lambda path: fresh_directory(path, marker="x")])
def test_parent_that_is_a_file(tmp_path, fresh):
    (tmp_path / "file").write_text("mine")
    target = tmp_path / "file" / "result"
    with pytest.raises(InputError, match=re.escape(f"-o {target}: ")), fresh(target):
        pytest.fail("the block must not run")


def test_directory_has_the_usual_mode(tmp_path):
    """Not the private mode of a temporary directory: others can read results."""
    with fresh_directory(tmp_path / "result", marker="x"):
        pass
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "result").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_new_file_appears_whole(tmp_path):
    target = tmp_path / "a" / "masks.npz"
    with fresh_file(target) as aside:
        assert aside.suffix == ".npz"
        aside.write_text("new")
        assert not target.exists()
    assert content(target.parent) == {"masks.npz": "new"}


def test_existing_file_is_refused_and_force_replaces_it(tmp_path):
    target = tmp_path / "masks.npz"
    target.write_text("old")
    with pytest.raises(InputError, match="exists already"), fresh_file(target):
        pytest.fail("the block must not run")
    with fresh_file(target, force=True) as aside:
        aside.write_text("new")
    assert content(tmp_path) == {"masks.npz": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "masks.npz"
    target.write_text("old")

    def build():
        with fresh_file(target, force=True) as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(error):
        build()
    assert content(tmp_path) == {"masks.npz": "old"}


def test_directory_in_the_place_of_a_file(tmp_path):
    with (
        pytest.raises(InputError, match="is a directory; give the name of a file"),
        fresh_file(tmp_path, force=True),
    ):
        pytest.fail("the block must not run")
