"""What a data set file holds: composition, labels, distances, neighbours."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from eqpot.errors import UserError
from eqpot.structures.data import LABELS, MAX_NUMBER, Dataset, first_alike, frame_pairs


@dataclass
class Statistics:
    """Root mean square, mean, spread and range of one quantity."""

    mean: float
    std: float
    min: float
    max: float
    rms: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Statistics | None":
        values = values[np.isfinite(values)]
        if not values.size:
            return None
        rms = float(np.sqrt(np.mean(values**2)))
        return cls(float(values.mean()), float(values.std()), float(values.min()), float(values.max()), rms)


@dataclass
class Duplicates:
    """Frames that repeat an earlier one, what they repeat, and which of them have other labels, int [n]."""

    frames: int
    repeats: np.ndarray
    first: np.ndarray
    different: np.ndarray

    def told(self, places: Sequence[str] | None = None) -> str:
        """In a line, with frames called by ``places``; empty where there are none."""
        if not len(self.repeats):
            return ""
        place = (lambda k: places[k]) if places else "frame {}".format
        text = (
            f"warning: {len(self.repeats)} of {self.frames} frames repeat an earlier one "
            f"({place(self.repeats[0])} is {place(self.first[0])})"
        )
        if len(self.different):
            text += f", {len(self.different)} of them with other labels ({place(self.different[0])})"
        return text


def duplicates(dataset: Dataset) -> Duplicates:
    """Frames of the same atoms in the same places as an earlier one, see ``first_alike``."""
    first = first_alike(dataset)
    repeats = np.flatnonzero(first != np.arange(len(dataset)))
    different = [k for k in repeats if not all(_same_label(dataset, label, k, first[k]) for label in LABELS)]
    return Duplicates(len(dataset), repeats, first[repeats], np.array(different, dtype=int))


def _same_label(dataset: Dataset, label: str, k: int, other: int) -> bool:
    """Whether two frames agree to rounding, or do not both have the label."""
    values, known = getattr(dataset, label), dataset.known(label)
    if values is None or not (known[k] and known[other]):
        return True
    if label == "forces":
        ptr = dataset.atom_ptr
        a, b = values[ptr[k] : ptr[k + 1]], values[ptr[other] : ptr[other + 1]]
    else:
        a, b = values[k], values[other]
    return np.allclose(a, b, rtol=1e-8, atol=1e-4 if label != "stress" else 1e-6)


@dataclass
class Info:
    """Everything ``eqpot data info`` prints.

    formulas: frames of each formula. elements: atoms of each. known: frames that have each label.
    sizes: atoms per frame. energy: eV/atom. residual: eV/atom, what a least-squares fit of one energy per
    element leaves. forces: components for each element and for "all", eV/Å; force_size: their lengths.
    stress: components, eV/Å^3. shortest: Å, for pairs of elements nearer than cutoff somewhere.
    neighbours: of an atom, within cutoff. isolated: atoms without a neighbour. edgeless: frames without
    one. periodic: frames with 0 to 3 periodic directions. duplicates: frames that repeat an earlier one.
    """

    frames: int
    atoms: int
    formulas: Counter
    elements: Counter
    sizes: Statistics
    known: dict[str, int]
    groups: Counter
    periodic: Counter
    energy: Statistics | None
    residual: Statistics | None
    forces: dict[str, Statistics]
    force_size: Statistics | None
    stress: Statistics | None
    cutoff: float
    shortest: dict[tuple[str, str], float]
    neighbours: Statistics
    isolated: int
    edgeless: np.ndarray
    duplicates: Duplicates


def describe(dataset: Dataset, cutoff: float = 5.0) -> Info:
    """Statistics of ``dataset``, with neighbours nearer than ``cutoff`` (Å)."""
    if not cutoff > 0:
        raise UserError(f"cutoff: expected a length over 0 Å, found {cutoff:g}")
    shortest, neighbours = _neighbours(dataset, cutoff)
    edges = np.bincount(dataset.frame_of_atom, neighbours, len(dataset))
    per_atom, residual = _energies(dataset)
    forces, force_size = {}, None
    if dataset.known("forces").any():
        forces["all"] = Statistics.of(dataset.forces)
        for z in dataset.species:
            of_element = Statistics.of(dataset.forces[dataset.numbers == z])
            if of_element:
                forces[chemical_symbols[z]] = of_element
        force_size = Statistics.of(np.linalg.norm(dataset.forces, axis=1))
    return Info(
        frames=len(dataset),
        atoms=len(dataset.numbers),
        formulas=_formulas(dataset),
        elements=Counter(chemical_symbols[z] for z in dataset.numbers),
        sizes=Statistics.of(dataset.sizes),
        known={label: int(dataset.known(label).sum()) for label in ("energy", "forces", "stress")},
        groups=Counter([] if dataset.group is None else dataset.group),
        periodic=Counter(dataset.pbc.sum(axis=1).tolist()),
        energy=per_atom,
        residual=residual,
        forces=forces,
        force_size=force_size,
        stress=None if dataset.stress is None else Statistics.of(dataset.stress),
        cutoff=cutoff,
        shortest=shortest,
        neighbours=Statistics.of(neighbours),
        isolated=int((neighbours == 0).sum()),
        edgeless=np.flatnonzero(edges == 0),
        duplicates=duplicates(dataset),
    )


def _formulas(dataset: Dataset) -> Counter:
    rows, counts = np.unique(dataset.composition().astype(int), axis=0, return_counts=True)
    symbols = [chemical_symbols[z] for z in dataset.species]
    named = {
        "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in zip(symbols, row, strict=True) if n): int(
            count
        )
        for row, count in zip(rows, counts, strict=True)
    }
    return Counter(named)


def _energies(dataset: Dataset) -> tuple[Statistics | None, Statistics | None]:
    known = dataset.known("energy")
    if not known.any():
        return None, None
    energy, sizes = dataset.energy[known], dataset.sizes[known]
    # per atom, so that the fit weighs every frame alike whatever its size
    composition = dataset.composition()[known] / sizes[:, None]
    shifts = np.linalg.lstsq(composition, energy / sizes, rcond=None)[0]
    return Statistics.of(energy / sizes), Statistics.of(energy / sizes - composition @ shifts)


def _neighbours(dataset: Dataset, cutoff: float) -> tuple[dict[tuple[str, str], float], np.ndarray]:
    """Shortest distance of each pair of elements (Å), and neighbours of each atom, float64 [atoms]."""
    nearest = np.full((MAX_NUMBER + 1, MAX_NUMBER + 1), np.inf)
    neighbours = np.zeros(len(dataset.numbers))
    for k in range(len(dataset)):
        rows = slice(dataset.atom_ptr[k], dataset.atom_ptr[k + 1])
        numbers, n = dataset.numbers[rows], dataset.sizes[k]
        i, j, distance = frame_pairs(dataset, k, cutoff)
        np.minimum.at(nearest, (numbers[i], numbers[j]), distance)
        neighbours[rows] = np.bincount(i, minlength=n) + np.bincount(j, minlength=n)
    nearest = np.minimum(nearest, nearest.T)
    pairs = [
        (a, b) for a in dataset.species for b in dataset.species if a <= b and np.isfinite(nearest[a, b])
    ]
    pairs.sort(key=lambda pair: nearest[pair])
    shortest = {(chemical_symbols[a], chemical_symbols[b]): float(nearest[a, b]) for a, b in pairs}
    return shortest, neighbours
