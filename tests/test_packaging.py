"""What pyproject.toml puts into the wheel, against the tree; no network, no build."""

import re
import tomllib
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FOLDERS = {package: ROOT / folder for package, folder in SETUPTOOLS["package-dir"].items()}


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in ROOT.glob("*/__init__.py")}
    assert set(FOLDERS.values()) == folders
    assert set(SETUPTOOLS["packages"]) == set(FOLDERS)
    assert all(package == f"sinai.{path.name}" for package, path in FOLDERS.items())


@pytest.mark.parametrize("package", FOLDERS)
def test_every_data_file_is_in_the_wheel(package):
    """All files below a package but its modules match a pattern of package-data."""
    folder, data = FOLDERS[package], SETUPTOOLS["package-data"]
    patterns = [*data["*"], *data.get(package, [])]
    files = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    matched = {
        name
        for name in files
        for pattern in patterns
        if fnmatch(name, pattern) and name.count("/") == pattern.count("/")
    }
    assert matched == files
    assert "py.typed" in files


def test_every_data_pattern_finds_a_file():
    for package, patterns in SETUPTOOLS["package-data"].items():
        for pattern in patterns:
            folders = FOLDERS.values() if package == "*" else [FOLDERS[package]]
            assert all(any(folder.glob(pattern)) for folder in folders), (package, pattern)


def test_no_file_is_over_8_megabytes():
    sizes = {path: path.stat().st_size for folder in FOLDERS.values() for path in folder.rglob("*")}
    assert [str(path) for path, size in sizes.items() if size > 8_000_000] == []


def test_constraints_pin_what_is_asked_for():
    """Every requirement of ours has its tested version in the constraints, and nothing else has."""
    project, groups = PYPROJECT["project"], PYPROJECT["dependency-groups"]
    asked = [*project["dependencies"]]
    asked += [line for extra in project["optional-dependencies"].values() for line in extra]
    asked += [line for group in groups.values() for line in group if isinstance(line, str)]
    names = {re.match(r"[\w-]+", line).group().lower() for line in asked}
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if line and not line.startswith("#")}
    assert pinned == names


def test_version_is_that_of_the_project():
    assert metadata.version("sinai") == PYPROJECT["project"]["version"]


def test_command_points_at_a_function():
    [script] = metadata.entry_points(group="console_scripts", name="sinai")
    assert callable(script.load())
