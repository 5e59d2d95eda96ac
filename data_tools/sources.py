"""What a source holds, as its reader found it and as it is taken."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eqpot.errors import UserError

if TYPE_CHECKING:
    from eqpot.structures.data import Dataset

# Spellings recognised in a plain npz, besides a key given by name; labels.py knows more of the labels'
SPELLINGS = {
    "positions": ("positions", "pos", "coords", "R", "coordinates", "coord"),
    "numbers": ("atomic_numbers", "numbers", "z", "Z", "nuclear_charges"),
    "cell": ("cell", "lattice", "cells", "lattices", "box"),
    "pbc": ("pbc",),
    "energy": ("energy", "energies", "E"),
    "forces": ("forces", "force", "F"),
    "stress": ("stress", "stresses"),
    "virial": ("virial", "virials"),
}


@dataclass
class Frame:
    """One structure as found in a source, in the source's units; None where it has no such thing."""

    numbers: Any
    positions: Any
    cell: Any = None
    pbc: Any = False
    group: str = ""


@dataclass
class Source:
    """What one source held: ``dataset`` in eV and Å, and what is worth telling about how it was read."""

    name: str
    kind: str
    dataset: "Dataset"
    energy_unit: str
    length_unit: str
    notes: list[str] = field(default_factory=list)
    other_units: str = ""  # of forces and stress, where they were given


@dataclass
class Found:
    """A source before labels are chosen, units and checks."""

    name: str
    kind: str
    frames: list[Frame]
    columns: dict[str, list]  # all else by its name: value of each frame, None where it has none
    energy_unit: str = "eV"
    length_unit: str = "Ang"
    letters: bool = False  # whether E and F are labels
    hint: str = ""  # what a message about a missing label may add
    assumed: str = ""  # a note on units, void where they are given
    notes: list[str] = field(default_factory=list)
    attrs: dict = field(default_factory=dict)


def check_group(path: str, keys: dict, columns: Collection[str]) -> None:
    """UserError where the groups' key was given and is not there."""
    if "group" in keys and keys["group"] not in columns:
        raise UserError(
            f"{path}: group: expected the key {keys['group']!r}, found {', '.join(columns) or 'none'}"
        )
