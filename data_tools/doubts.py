"""Numbers that are implausible in eV and Å, and units that a source states and that were not used."""

import numpy as np
from ase.data import covalent_radii

from eqpot.data_tools.labels import words
from eqpot.errors import UserError
from eqpot.network.isolated import names_isolated
from eqpot.structures.data import Dataset, frame_pairs
from eqpot.structures.trajectory import PREDICTED
from eqpot.units import ENERGY_UNITS, LENGTH_UNITS, force_unit, stress_unit, unit
from eqpot.words import counted


def other_units(columns: dict[str, list], used: dict[str, str]) -> list[str]:
    """Notes on units that the source states, such as energy_unit=Hartree, and that are not those used."""
    notes = []
    for name, column in columns.items():
        said = next((value for value in column if value is not None), None)
        found = [word.rstrip("s") for word in words(name)]
        quantity = next((q for q in used if q.rstrip("s") in found), None)
        if found == ["unit"] and isinstance(said, str):
            quantity = next((q for q in used if _is_unit_of(q, said)), None)
        if not isinstance(said, str) or quantity is None or not {"unit"} & set(found):
            continue
        try:
            same = _spelling(quantity, said) == used[quantity]
        except UserError:
            same = False
        if not same:
            option = {"forces": "force", "virial": "energy"}.get(quantity, quantity)
            notes.append(f"{name} says {said}, {quantity} was read in {used[quantity]} (--{option}-unit)")
    return notes


def predicted(columns: dict[str, list]) -> list[str]:
    """A note on frames whose labels eqpot has written: they are a model's."""
    models = [str(value) for value in columns.get(PREDICTED, []) if value is not None]
    if not models:
        return []
    return [
        f"warning: the labels of {counted(len(models), 'frame')} are predictions of {models[0]} "
        f"({PREDICTED}), not of the reference"
    ]


def _is_unit_of(quantity: str, name: str) -> bool:
    try:
        return bool(_spelling(quantity, name))
    except UserError:
        return False


def _spelling(quantity: str, name: str) -> str:
    if quantity == "forces":
        return force_unit(name)[0]
    if quantity == "stress":
        return stress_unit(name)[0]
    return unit(name, LENGTH_UNITS if quantity == "length" else ENERGY_UNITS, quantity)


GPA = 1 / 160.21766  # eV/Å^3
_THOMAS_FERMI = 0.7687 * 27.2114  # eV; an atom's electrons bind with about this times Z^(7/3), all of them
FAR = 6.0  # Å; no bond is longer
_CHECKED = 5000  # atoms, or some more, whose distances are compared with radii


def doubts(dataset: Dataset) -> list[str]:
    """Notes on numbers that are implausible in eV and Å: mostly, they are in other units."""
    notes = []
    if dataset.stress is not None and np.nanmax(abs(dataset.stress)) > 10:
        known = dataset.known("stress")
        volume = abs(np.linalg.det(dataset.cell[known]))
        most = abs(dataset.stress[known]).max(axis=(1, 2))
        like = "a virial's (--virial-key), or in kbar or GPa (--stress-unit)"
        if (most / volume).max() > 1:
            like = "in kbar or GPa (--stress-unit)"
        notes.append(f"warning: stress of up to {most.max():.4g} eV/Å^3 is implausible; perhaps it is {like}")
    if dataset.forces is not None:
        known = dataset.forces[np.isfinite(dataset.forces).all(axis=1)]
        largest = np.abs(known).max(initial=1.0)  # whose square may be too large for a number
        rms = largest * np.sqrt(np.mean((known / largest) ** 2)) if len(known) else 0.0
        if rms > 15:
            notes.append(
                f"warning: forces of {rms:.4g} eV/Å (RMS) are implausible; is that their unit (--force-unit)?"
            )
    known = dataset.known("energy")
    if known.any():
        bound = _THOMAS_FERMI * np.add.reduceat(
            dataset.numbers.astype(float) ** (7 / 3), dataset.atom_ptr[:-1]
        )
        beyond = np.flatnonzero(known & (abs(dataset.energy) > 1.5 * bound))
        if len(beyond):
            k = beyond[0]
            notes.append(
                f"warning: an energy of {dataset.energy[k]:.6g} eV (frame {k}) is more than all electrons of "
                "its atoms have; is that its unit (--energy-unit)?"
            )
    unnamed = _lone(dataset)
    if len(unnamed):
        notes.append(
            f"{counted(len(unnamed), 'frame')} of one atom (first: frame {unnamed[0]}) in no group "
            "IsolatedAtom: a fit takes them as any other; with config_type=IsolatedAtom their energies "
            "become its shifts"
        )
    ratio, distance = _shortest(dataset)
    if not distance and (dataset.sizes > 1).any():
        notes.append(
            f"warning: no two atoms are within {FAR:g} Å of each other; are lengths in another unit "
            "(--length-unit)?"
        )
    if distance and not (0.6 < ratio < 1.6 and 0.5 < distance < 4):
        such = ", such as Bohr" if ratio > 1 else ""
        notes.append(
            f"warning: shortest distances of {distance:.3g} Å, {ratio:.3g} times the covalent radii, are "
            f"implausible; are lengths in another unit{such} (--length-unit)?"
        )
    return notes


def _lone(dataset: Dataset) -> np.ndarray:
    """Frames of one atom that is periodic nowhere, which are not named as what they probably are."""
    alone = (dataset.sizes == 1) & ~dataset.pbc.any(axis=1)
    if dataset.group is not None:
        alone &= np.array([not names_isolated(group) for group in dataset.group])
    return np.flatnonzero(alone)


def _shortest(dataset: Dataset) -> tuple[float, float]:
    """Median of frames' shortest distances: in sums of covalent radii, and in Å; 0 where there are none."""
    found = []
    for k in range(0, len(dataset), max(1, len(dataset.numbers) // _CHECKED)):
        radii = covalent_radii[dataset.numbers[dataset.atom_ptr[k] : dataset.atom_ptr[k + 1]]]
        first, second, distance = frame_pairs(dataset, k, FAR)
        if len(distance):
            at = np.argmin(distance / (radii[first] + radii[second]))
            found.append((distance[at] / (radii[first[at]] + radii[second[at]]), distance.min()))
    return tuple(np.median(found, axis=0)) if found else (0.0, 0.0)
