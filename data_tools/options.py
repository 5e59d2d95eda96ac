"""Options that say how sources are read, of every command that reads any; imported before anything that takes
long."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from eqpot.data_tools.sources import SPELLINGS

# As in `units`, which imports ASE.
ENERGY, LENGTH, STRESS = "eV|meV|kcal/mol|kJ/mol|Hartree|Ry", "Ang|Bohr|nm", "GPa|MPa|kbar|bar|Pa"
KEYS = (*SPELLINGS, "group", "weight")


def source_options(hidden: bool = False) -> Callable:
    """Adds them to a command, which gives what click found to `reading`; hidden: not in its --help."""
    options = [
        (("--energy-unit",), dict(metavar=ENERGY, help="Of the sources. [eV; MD17: kcal/mol]")),
        (("--length-unit",), dict(metavar=LENGTH, help="Of the sources. [Ang]")),
        (
            ("--force-unit",),
            dict(metavar="ENERGY/LENGTH", help="Such as Hartree/Bohr. [of the two above]"),
        ),
        (
            ("--stress-unit",),
            dict(
                metavar=f"{STRESS}|ENERGY/LENGTH^3",
                help="Such as kbar. [energy/length^3; a virial is always in that of energy]",
            ),
        ),
        *(((f"--{name}-key",), _of_key(name)) for name in KEYS),
        (
            ("--type-map",),
            dict(metavar="EL,EL,...", help="Element of each DeePMD type, without type_map.raw."),
        ),
        (
            ("--allow-missing", "--allow-missing-labels", "allow_missing"),
            dict(
                multiple=True,
                type=click.Choice(("energy", "forces", "stress")),
                help="A label that frames may lack; repeatable.",
            ),
        ),
        (("--level-of-theory",), dict(metavar="TEXT", help="Kept in the file.")),
    ]

    def add(command: Callable) -> Callable:
        for names, how in reversed(options):
            command = click.option(*names, hidden=hidden, **how)(command)
        return command

    return add


def _of_key(name: str) -> dict[str, str]:
    where = "in an npz" if name in ("positions", "numbers", "cell", "pbc") else "in the sources"
    return dict(metavar="NAME", help=f"Name of {name} {where}.")


def reading(options: Mapping[str, Any]) -> dict[str, Any]:
    """What `convert.gather` takes, of what click found; nothing of what was not given."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    how = {name: value for name, value in given.items() if not name.endswith("_key")}
    if keys := {name.removesuffix("_key"): key for name, key in given.items() if name.endswith("_key")}:
        how["keys"] = keys
    if theory := how.pop("level_of_theory", ""):
        how["attrs"] = {"level_of_theory": theory}
    if types := how.pop("type_map", ""):
        how["type_map"] = types.split(",")
    return how
