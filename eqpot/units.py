"""Units that numbers of others may be in, and what one of each is in eV and Å."""

import re

from ase import units

from eqpot.errors import UserError

ENERGY_UNITS = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
    "Hartree": units.Hartree,
    "Ry": units.Rydberg,
}
LENGTH_UNITS = {"Ang": 1.0, "Bohr": units.Bohr, "nm": units.nm}
PRESSURE_UNITS = {
    "GPa": units.GPa,
    "MPa": 1e-3 * units.GPa,
    "kbar": 0.1 * units.GPa,
    "bar": 1e-4 * units.GPa,
    "Pa": 1e-9 * units.GPa,
}
ALIASES = {"ha": "Hartree", "rydberg": "Ry", "a": "Ang", "å": "Ang", "angstrom": "Ang"}


def unit(name: str, table: dict[str, float], what: str, source: str = "") -> str:
    """The table's own spelling of a unit's name; UserError at another."""
    wanted = ALIASES.get(name.lower(), name).lower()
    # case tells nothing, but for the first letter of meV and MPa: mega is not milli
    for known in table:
        if known.lower() == wanted and (known not in ("meV", "MPa") or known[0] == name[:1]):
            return known
    where = f"{source}: " if source else ""
    raise UserError(f"{where}{what} unit: expected one of {', '.join(table)}; found {name}")


def force_unit(name: str) -> tuple[str, float]:
    """Spelling and value in eV/Å of an energy over a length, such as kcal/mol/Ang."""
    energy, over, length = name.rpartition("/")
    if not over:
        raise UserError(f"force unit: expected an energy/length such as Hartree/Bohr, found {name}")
    try:
        energy, length = unit(energy, ENERGY_UNITS, "energy"), unit(length, LENGTH_UNITS, "length")
    except UserError as error:
        raise UserError(f"force unit: expected an energy/length such as Hartree/Bohr ({error})") from error
    return f"{energy}/{length}", ENERGY_UNITS[energy] / LENGTH_UNITS[length]


def stress_unit(name: str) -> tuple[str, float]:
    """Spelling and value in eV/Å^3 of a pressure (GPa, kbar, ...) or of an energy over a length^3."""
    density = re.fullmatch(r"(.+)/([^/]+?)(?:\^|\*\*)?3", name)
    try:
        if not density:
            name = unit(name, PRESSURE_UNITS, "pressure")
            return name, PRESSURE_UNITS[name]
        energy, length = unit(density[1], ENERGY_UNITS, "energy"), unit(density[2], LENGTH_UNITS, "length")
    except UserError as error:
        raise UserError(f"stress unit: expected eV/Ang^3, GPa, kbar or the like ({error})") from error
    return f"{energy}/{length}^3", ENERGY_UNITS[energy] / LENGTH_UNITS[length] ** 3
