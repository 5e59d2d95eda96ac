"""What is installed: its import names, what it depends on, and which way the imports point."""

from __future__ import annotations

import ast
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from eqpot.version import version

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("eqpot", "kernels", "data_tools")
ROOMS = ("structures", "network", "engines", "training", "dynamics", "learning", "lammps", "commands")
PACKAGES = {
    "eqpot": ROOT / "eqpot",
    **{f"eqpot.{room}": ROOT / "eqpot" / room for room in ROOMS},
    "eqpot.kernels": ROOT / "kernels",
    "eqpot.data_tools": ROOT / "data_tools",
}
FRAMEWORKS = {"torch", "jax", "tensorflow", "keras", "e3nn", "paddle", "mxnet"}
# None imports one to its right.
LAYERS = "kernels structures network engines potential training dynamics learning lammps commands cli".split()  # noqa: SIM905
GPU_LIBRARIES = {"cupy", "numba_cuda", "cuda"}
OF_EXTRAS = {"lammps", "mpi4py"}

# Runs in the new environment: forces from ASE's EMT, then a conversion and two optimiser steps by the CLI.
FIRST_USE = """
import sys
from pathlib import Path
import ase.io
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from eqpot.cli import main

frames = []
for seed in range(4):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **results)
    frames.append(atoms)
ase.io.write("copper.xyz", frames)

def eqpot(*words):
    assert main(list(words)) == 0, " ".join(words)

# the network of the papers: its kernels take half the time to compile
settings = "[model]\\nfeatures = 4\\nblocks = 2\\ncutoff = 3.0\\nfilter_order = 1\\nnode_products = false\\n"
Path("small.toml").write_text(settings + "[train]\\nbatch_size = 1\\n")
eqpot("data", "convert", "copper.xyz", "copper.h5")
counts = ["--n-train", "2", "--n-valid", "2", "--max-epochs", "1"]
eqpot("fit", "copper.h5", *counts, "--config", "small.toml", "-o", "run")
print("IMPORTED", *sorted({name.split(".")[0] for name in sys.modules}))
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Output of a command that must succeed; skips the test where pip can reach no package index."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    environment["NUMBA_OPT"] = "0"  # two steps gain nothing from fast code, which takes longer to compile
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode and "after connection broken by" in output:
        pytest.skip("no package index can be reached, so nothing can be installed into a new environment")
    assert done.returncode == 0, f"{' '.join(map(str, command))} exited with {done.returncode}:\n{output}"
    return output


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout gets no build folder."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, tree)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_all_packages_and_no_others(wheel: Path):
    files = [f for f in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in f]
    assert {f.split("/")[0] for f in files} == {"eqpot"}
    modules = {f for f in files if f.endswith(".py")}
    assert {os.path.dirname(f).replace("/", ".") for f in modules} == set(PACKAGES)
    for name, source in PACKAGES.items():
        expected = {f"{name.replace('.', '/')}/{path.name}" for path in source.glob("*.py")}
        assert expected <= modules, f"missing from the wheel: {sorted(expected - modules)}"
    data = {"data_tools/ethanol.h5", "data_tools/recipes/lips.toml", "lammps/pair_eqpot.cpp"}
    data |= {f"report_files/{path.name}" for path in (ROOT / "eqpot" / "report_files").iterdir()}
    assert {f"eqpot/{name}" for name in data} <= set(files)


@pytest.mark.slow
def test_wheel_fits_in_an_empty_environment(wheel: Path, tmp_path: Path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", wheel)

    listed = run(python, "-m", "pip", "list", "--format=freeze").lower().replace("-", "_")
    installed = {line.split("==")[0] for line in listed.splitlines() if "==" in line}
    assert {"eqpot", "numpy", "numba"} <= installed
    assert not installed & FRAMEWORKS
    assert not [name for name in installed if name.startswith(("cupy", "numba_cuda", "nvidia"))]

    (tmp_path / "first_use.py").write_text(FIRST_USE)
    output = run(python, "first_use.py", cwd=tmp_path)
    assert (tmp_path / "run" / "model.h5").is_file()
    imported = set(output.split("IMPORTED ")[1].split())
    assert {"eqpot", "numba"} <= imported
    assert not imported & (FRAMEWORKS | GPU_LIBRARIES | OF_EXTRAS)
    assert str(tmp_path) in run(
        python, "-c", "import eqpot.kernels; print(eqpot.kernels.__file__)", cwd=tmp_path
    )


def imports_of(path: Path, package: str, at_once: bool = False) -> set[str]:
    """Absolute names of all that a source file imports, at its top or inside a function; `at_once`: only what
    Python imports with it, not in functions or for types alone."""
    found, left = set(), [ast.parse(path.read_text(), str(path))]
    while left:
        node = left.pop()
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not (at_once and (for_types or isinstance(node, ast.FunctionDef))):
            left.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def sources(at_once: bool = False) -> dict[str, set[str]]:
    """Module name -> imported names, over all packages."""
    return {
        f"{package}.{path.stem}".removesuffix(".__init__"): imports_of(path, package, at_once)
        for package, folder in PACKAGES.items()
        for path in sorted(folder.glob("*.py"))
    }


def is_under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_compiling_is_announced_for_each_kind_of_arguments_once(tmp_path: Path):
    """In the process that does it, and in none after it."""
    (tmp_path / "kernels_here.py").write_text(
        "from eqpot.kernels.compile import announce, exact\n"
        "import numpy as np\n"
        "nothing = exact(lambda x: x)\n"
        "announce(nothing)\n"
        "for kind in (np.float32, np.float64, np.float64):\n"
        "    nothing(kind(1))\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    said = [
        subprocess.run(
            [sys.executable, "kernels_here.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
        ).stderr
        for _ in range(2)
    ]
    line = "compiling kernels for a new kind of network, kept for later: about a minute\n"
    assert said == [2 * line, ""]


def test_no_module_imports_a_framework():
    for module, names in sources().items():
        assert not {n.split(".")[0] for n in names} & FRAMEWORKS, module


def test_mpi_is_imported_in_one_place_when_it_is_asked_for():
    """Not even there at once, but for types."""
    found = {False: set(), True: set()}
    for at_once, modules in found.items():
        for module, names in sources(at_once).items():
            if any(is_under(name, "mpi4py") for name in names):
                modules.add(module)
    assert found == {False: {"eqpot.launcher", "eqpot.training.ranks"}, True: set()}


def test_kernels_import_nothing_of_the_potential():
    for module, names in sources().items():
        if is_under(module, "eqpot.kernels"):
            outside = {n for n in names if is_under(n, "eqpot") and not is_under(n, "eqpot.kernels")}
            assert not outside, f"{module} imports {sorted(outside)}"


def test_reference_imports_only_numpy():
    modules = sources()
    own = [f"eqpot.kernels.{name}" for name in ("reference", "reference_operators", "reference_operators2")]
    names = {n for module in own for n in modules[module] if not any(is_under(n, other) for other in own)}
    assert {n.split(".")[0] for n in names} <= {"__future__", "typing", "collections", "math", "numpy"}


def test_arrows_point_one_way():
    """No module reaches itself through what it imports, and no layer reaches the one above it."""
    graph = sources()
    direct = {module: {m for m in graph if m != module and m in names} for module, names in graph.items()}
    # A package's own __init__ is run by any import below it and says nothing about direction.
    direct = {module: {m for m in below if m not in PACKAGES} for module, below in direct.items()}

    def reach(module: str) -> set[str]:
        seen, left = set(), [module]
        while left:
            new = direct[left.pop()] - seen
            seen |= new
            left.extend(new)
        return seen

    for module in graph:
        assert module not in reach(module), f"{module} is part of a cycle of imports"
    for lower, upper in itertools.combinations(LAYERS, 2):
        for module in (m for m in graph if is_under(m, f"eqpot.{lower}")):
            above = {m for m in reach(module) if is_under(m, f"eqpot.{upper}")}
            assert not above, f"{module} imports {sorted(above)}"


def test_the_house_stays_low():
    """Levels of imports, sizes of files and of functions; learning stands on training and on dynamics."""
    graph = sources(at_once=True)
    level: dict[str, int] = {}
    while len(level) < len(graph):  # all whose imports have their levels
        for module, names in graph.items():
            below = [m for m in graph if m != module and m in names and m not in PACKAGES]
            if module not in level and all(m in level for m in below):
                level[module] = 1 + max((level[m] for m in below), default=0)
    assert max(level.values()) <= 13, max(level, key=level.get)
    files = [path for folder in PACKAGES.values() for path in folder.glob("*.py")]
    assert max(len(path.read_text().splitlines()) for path in files) < 450
    functions = [
        node.end_lineno - node.lineno + 1
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert statistics.median(functions) <= 8


def test_import_reader_sees_relative_and_nested_imports(tmp_path: Path):
    source = tmp_path / "x.py"
    source.write_text("import a.b\nfrom .c import d\ndef f():\n    from ..e import g\n    from .. import h\n")
    found = imports_of(source, "eqpot.kernels")
    assert {"a.b", "eqpot.kernels.c", "eqpot.kernels.c.d", "eqpot.e", "eqpot.e.g", "eqpot.h"} <= found


@pytest.mark.parametrize("module", ["eqpot.inspect", "eqpot.dynamics.check"])
def test_looking_at_a_model_loads_neither_training_nor_pictures(module: str):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    found = set(loaded.split())
    assert module in found and not found & {
        "eqpot.training.trainer",
        "eqpot.training.adam",
        "eqpot.training.soap",
        "eqpot.plots",
        "matplotlib",
    }


def test_importing_and_computing_leave_the_process_as_it_was():
    """Environment, threads of BLAS, signal handlers: they are the user's."""
    code = """
import os, signal, sys
import numpy as np, scipy.linalg
from ase.build import molecule
from threadpoolctl import threadpool_info

def state():
    blas = {lib["filepath"]: lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}
    return dict(os.environ), blas, {s: signal.getsignal(s) for s in signal.valid_signals()}

before = state()
from eqpot import EqpotCalculator, Potential
assert state() == before, "importing"
potential = Potential.create(["H", "O"], features=4, blocks=1, nonlinearity="norm")
potential.evaluate(molecule("H2O"))
assert state() == before, "computing"
assert any(count > 1 for count in before[1].values()) or len(os.sched_getaffinity(0)) == 1
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_of_the_same_name_is_not_taken_for_it(tmp_path: Path):
    """Such as a checkout beside a script that runs in the environment made in it."""
    (tmp_path / "eqpot").mkdir()
    (tmp_path / "script.py").write_text("from eqpot import Potential; import eqpot.kernels.products\n")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_in_a_checkout_that_is_not_installed_imports_what_lies_there(tmp_path: Path):
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]; "
        "import eqpot.kernels.products, eqpot.data_tools.commands; print(eqpot.kernels.products.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "kernels/products.py"


def test_a_checkout_that_is_not_installed_knows_its_version(monkeypatch: pytest.MonkeyPatch):
    def unknown(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", unknown)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version() == project["version"]
