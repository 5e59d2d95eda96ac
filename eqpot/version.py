"""Which version of eqpot this is."""

import tomllib
from importlib import metadata
from pathlib import Path


def version() -> str:
    """As it was installed; in a checkout that is not, as its pyproject.toml says."""
    try:
        return metadata.version("eqpot")
    except metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
        return project["project"]["version"]
