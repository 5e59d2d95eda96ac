"""Recipes: settings and commands of published fits, one TOML file each in the folder `recipes`.

The head of such a file is made of comments: first what the system is, then `Data:` and an address, then the
commands that lead from the data to the errors.
"""

import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files

from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.settings import nearest

FOLDER = files("eqpot.data_tools") / "recipes"


@dataclass(frozen=True)
class Recipe:
    """One file: `text` as it stands, and what its head says."""

    name: str
    text: str

    @property
    def system(self) -> str:
        """What is fitted, in a line."""
        return self.text.splitlines()[0].removeprefix("# ")

    @property
    def data(self) -> str:
        """Where the data are published."""
        return re.search(r"^# Data: (\S+)$", self.text, re.MULTILINE)[1]

    @property
    def config(self) -> Config:
        """The settings."""
        return Config.from_dict(tomllib.loads(self.text))


def recipes() -> dict[str, Recipe]:
    """All of them by name, in the order of the alphabet."""
    found = {
        file.name.removesuffix(".toml"): file for file in FOLDER.iterdir() if file.name.endswith(".toml")
    }
    return {name: Recipe(name, found[name].read_text(encoding="utf-8")) for name in sorted(found)}


def recipe(name: str) -> Recipe:
    """One of them; UserError at an unknown name."""
    known = recipes()
    if name not in known:
        raise UserError(f"{name}: no recipe of that name, {nearest(name, known)}")
    return known[name]
