"""The data set file: frames of any mix of compositions in one HDF5 file, checked when read or written.

Layout (lengths in Å, energies in eV; ``frames`` structures with ``atoms`` atoms in all)::

    /            attributes format = "eqpot-dataset", version = 1, free text (source, level_of_theory, ...)
    /atom_ptr    int64   [frames + 1]     atoms of frame k: atom_ptr[k]:atom_ptr[k+1]
    /numbers     uint8   [atoms]          atomic numbers
    /positions   float64 [atoms, 3]       Å
    /cell        float64 [frames, 3, 3]   Å, rows are vectors; zero where not periodic
    /pbc         bool    [frames, 3]
    /energy      float64 [frames]         eV       } optional; absent, or NaN in the frames
    /forces      float64 [atoms, 3]       eV/Å     } where it is unknown
    /stress      float64 [frames, 3, 3]   eV/Å^3   } positive under tension (ASE's sign)
    /weight      float64 [frames]         optional weight of the frame's errors in a fit, from 0; else 1
    /group       str     [frames]         optional label, reported separately by an evaluation

Arrays lie in the file itself, plain or compressed by deflate or lzf; none is a link. Other names are ignored.
HDF5's user block has a checksum, see `eqpot.hdf5`, or there is none.
"""

import os
from dataclasses import dataclass, field, replace

import h5py
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols

from eqpot.errors import UserError
from eqpot.files import new_hdf5, own_hdf5
from eqpot.schema import Array
from eqpot.structures.neighbours import search

FORMAT = "eqpot-dataset"
VERSION = 1
MIN_DISTANCE = 0.3  # Å; two nuclei nearer than this are a broken file, not physics
MAX_NUMBER = len(chemical_symbols) - 1
MOST = 1e12  # Å, eV, eV/Å, eV/Å^3; squares and sums of what is larger would leave the range of numbers

# What a file holds; `validate` looks closer at the numbers.
ARRAYS = {
    "numbers": Array(np.integer, ("atoms",), low=0, high=MAX_NUMBER),
    "positions": Array(np.floating, ("atoms", 3)),
    "cell": Array(np.floating, ("frames", 3, 3)),
    "pbc": Array(np.bool_, ("frames", 3)),
    "energy": Array(np.floating, ("frames",), unknown=True, optional=True),
    "forces": Array(np.floating, ("atoms", 3), unknown=True, optional=True),
    "stress": Array(np.floating, ("frames", 3, 3), unknown=True, optional=True),
    "weight": Array(np.floating, ("frames",), optional=True),
}
LAYOUT = {
    "atom_ptr": Array(np.integer, ("frames + 1",), low=0),
    **ARRAYS,
    "group": Array(str, ("frames",), optional=True),
}
DTYPES = dict.fromkeys(ARRAYS, np.float64) | {"numbers": np.uint8, "pbc": np.bool_}  # in memory
LABELS = ("energy", "forces", "stress")
GEOMETRY = ("numbers", "positions", "cell", "pbc")


@dataclass
class Dataset:
    """Frames of a data set file; the arrays are those of the module's docstring, None where absent.

    ``path`` and ``hash`` (SHA-256 of the file) say where it was read from: None for frames in memory.
    """

    atom_ptr: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    energy: np.ndarray | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    weight: np.ndarray | None = None
    group: np.ndarray | None = None
    attrs: dict = field(default_factory=dict)
    path: str | None = None
    hash: str | None = None

    def __len__(self) -> int:
        return len(self.atom_ptr) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Atoms in each frame, int64 [frames]."""
        return np.diff(self.atom_ptr)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers that occur, sorted."""
        return tuple(int(z) for z in np.unique(self.numbers))

    @property
    def frame_of_atom(self) -> np.ndarray:
        """Index of the frame that each atom belongs to, int64 [atoms]."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def composition(self, species: tuple[int, ...] | None = None) -> np.ndarray:
        """Atoms of each of ``species`` (default: all that occur) in each frame, float64 [frames, Z]."""
        species = np.asarray(self.species if species is None else species, dtype=int)
        column = np.full(MAX_NUMBER + 1, -1)
        column[species] = np.arange(len(species))
        known = column[self.numbers] >= 0
        counts = np.zeros((len(self), len(species)))
        np.add.at(counts, (self.frame_of_atom[known], column[self.numbers[known]]), 1.0)
        return counts

    def known(self, label: str) -> np.ndarray:
        """Which frames have the label ``energy``, ``forces`` or ``stress``, bool [frames]."""
        values = getattr(self, label)
        if values is None:
            return np.zeros(len(self), dtype=bool)
        if label == "forces":  # a frame's forces are known or unknown as a whole, see validate
            values = values[self.atom_ptr[:-1]]
        return np.isfinite(values.reshape(len(self), -1)).all(axis=1)

    def subset(self, indices) -> "Dataset":
        """The frames ``indices`` (integers, a slice or a mask) in that order; keeps attrs, path and hash."""
        indices = np.arange(len(self))[indices].reshape(-1)
        sizes = self.sizes[indices]
        ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        rows = np.repeat(self.atom_ptr[indices] - ptr[:-1], sizes) + np.arange(ptr[-1])
        taken = {}
        for name in (*ARRAYS, "group"):
            values = getattr(self, name)
            if values is not None:
                per_atom = name in ARRAYS and ARRAYS[name].shape[0] == "atoms"
                taken[name] = values[rows if per_atom else indices]
        return replace(self, atom_ptr=ptr, attrs=dict(self.attrs), **taken)

    def atoms(self, k: int) -> Atoms:
        """Frame k as ase.Atoms: known labels in a SinglePointCalculator, group and weight in info
        as config_type and config_weight."""
        k = range(len(self))[k]
        rows = slice(self.atom_ptr[k], self.atom_ptr[k + 1])
        atoms = Atoms(self.numbers[rows], positions=self.positions[rows], cell=self.cell[k], pbc=self.pbc[k])
        results = {}
        for name in LABELS:
            values = getattr(self, name)
            if values is not None:
                value = values[rows] if name == "forces" else values[k]
                if np.isfinite(value).all():
                    results[name] = float(value) if name == "energy" else value.copy()
        if "stress" in results:
            s = results["stress"]
            results["stress"] = np.array([s[0, 0], s[1, 1], s[2, 2], s[1, 2], s[0, 2], s[0, 1]])
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        if self.group is not None and self.group[k]:
            atoms.info["config_type"] = str(self.group[k])
        if self.weight is not None:
            atoms.info["config_weight"] = float(self.weight[k])
        return atoms


def concatenate(datasets: list[Dataset], attrs: dict | None = None) -> Dataset:
    """All frames of several data sets, in order; where only some have a label it is NaN for the others, and a
    weight is 1."""
    sizes = np.concatenate([d.sizes for d in datasets])
    arrays = {name: np.concatenate([getattr(d, name) for d in datasets]) for name in GEOMETRY}
    for name in LABELS:
        if any(getattr(d, name) is not None for d in datasets):
            arrays[name] = np.concatenate([_or_unknown(d, name) for d in datasets])
    if any(d.weight is not None for d in datasets):
        weights = [np.ones(len(d)) if d.weight is None else d.weight for d in datasets]
        arrays["weight"] = np.concatenate(weights)
    if any(d.group is not None for d in datasets):
        groups = [np.full(len(d), "", dtype=object) if d.group is None else d.group for d in datasets]
        arrays["group"] = np.concatenate(groups)
    ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Dataset(atom_ptr=ptr, attrs=dict(attrs or {}), **arrays)


def _or_unknown(dataset: Dataset, name: str) -> np.ndarray:
    values = getattr(dataset, name)
    if values is not None:
        return values
    leading, *trailing = ARRAYS[name].shape
    rows = len(dataset) if leading == "frames" else len(dataset.numbers)
    return np.full((rows, *trailing), np.nan, DTYPES[name])


def read_dataset(path: str | os.PathLike) -> Dataset:
    """Read and check a data set file.

    Raises UserError, in one line, for a file that is absent, truncated, foreign, of another version, or whose
    arrays break a rule of ``validate``.
    """
    path = os.fspath(path)
    with own_hdf5(path, FORMAT, VERSION) as file:
        attrs = {key: value for key, value in file.attributes.items() if key not in ("format", "version")}
        arrays = file.arrays(LAYOUT)
    for name, dtype in {"atom_ptr": np.int64, **DTYPES}.items():
        if name in arrays:
            arrays[name] = arrays[name].astype(dtype, copy=False)
    dataset = Dataset(attrs=attrs, path=path, hash=file.hash, **arrays)
    validate(dataset, path)
    return dataset


def _in_utf8(text: str) -> str:
    """Names of files may have bytes that are no text, which HDF5 cannot hold: these as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_dataset(path: str | os.PathLike, dataset: Dataset) -> None:
    """Check ``dataset`` and write it, compressed, to ``path``: the whole file appears, or none of it.

    Raises UserError when it breaks a rule of ``validate`` or the file cannot be written.
    """
    validate(dataset, os.fspath(path))
    options = {"compression": "gzip", "compression_opts": 6, "shuffle": True}
    with new_hdf5(path) as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        for key, value in dataset.attrs.items():
            file.attrs[key] = _in_utf8(value) if isinstance(value, str) else value
        file.create_dataset("atom_ptr", data=dataset.atom_ptr.astype(np.int64), **options)
        for name, dtype in DTYPES.items():
            values = getattr(dataset, name)
            if values is not None:
                file.create_dataset(name, data=np.asarray(values, dtype), **options)
        if dataset.group is not None:
            file.create_dataset("group", data=dataset.group.astype(object), dtype=h5py.string_dtype())


def validate(dataset: Dataset, name: str) -> None:
    """Check shapes, elements, geometry, labels; the first broken rule is a UserError naming it.

    A frame's label is known or NaN as a whole; infinities are never legal. A cell may be left-handed, but the
    vectors of its periodic directions must be linearly independent. Distances include periodic images.
    """
    _check_shapes(dataset, name)
    numbers, frame_of_atom = dataset.numbers, dataset.frame_of_atom
    bad = np.flatnonzero((numbers < 1) | (numbers > MAX_NUMBER))
    if len(bad):
        atom = bad[0]
        raise UserError(
            f"{name}: frame {frame_of_atom[atom]}, numbers: expected atomic numbers 1 to {MAX_NUMBER}, "
            f"found {numbers[atom]}"
        )
    for array in ("positions", "cell"):
        values = getattr(dataset, array)
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if len(bad):
            frame = frame_of_atom[bad[0]] if array == "positions" else bad[0]
            raise UserError(f"{name}: frame {frame}, {array}: expected finite numbers, found NaN or infinity")
        _check_size(name, array, values, frame_of_atom if array == "positions" else None)
    for label in LABELS:
        _check_label(dataset, name, label)
    _check_weight(dataset, name)
    for k in range(len(dataset)):
        _check_geometry(dataset, name, k)


def _check_weight(dataset: Dataset, name: str) -> None:
    if dataset.weight is None:
        return
    bad = np.flatnonzero(~((dataset.weight >= 0) & (dataset.weight <= MOST)))  # NaN as well
    if len(bad):
        raise UserError(
            f"{name}: frame {bad[0]}, weight: expected a number from 0 to {MOST:g}, "
            f"found {dataset.weight[bad[0]]:g}"
        )


def _check_shapes(dataset: Dataset, name: str) -> None:
    ptr = dataset.atom_ptr
    if ptr.ndim != 1 or len(ptr) < 2:
        raise UserError(f"{name}: atom_ptr: expected at least one frame, found an array of shape {ptr.shape}")
    atoms = len(dataset.numbers) if np.ndim(dataset.numbers) else 0
    if ptr[0] != 0 or ptr[-1] != atoms or (np.diff(ptr) < 1).any():
        raise UserError(
            f"{name}: atom_ptr: expected rising numbers from 0 to {atoms} (the length of numbers), "
            f"found {ptr[0]} to {ptr[-1]} with steps of {np.diff(ptr).min()} to {np.diff(ptr).max()}"
        )
    for array, rule in ARRAYS.items():
        values = getattr(dataset, array)
        if values is not None:
            lengths = {"atoms": atoms, "frames": len(dataset)}
            rule.check_form(values.dtype, values.shape, lengths, f"{name}: {array}")
    if dataset.group is not None and dataset.group.shape != (len(dataset),):
        raise UserError(f"{name}: group: expected shape ({len(dataset)},), found {dataset.group.shape}")


def _check_label(dataset: Dataset, name: str, label: str) -> None:
    values = getattr(dataset, label)
    if values is None:
        return
    frames = dataset.frame_of_atom if label == "forces" else np.arange(len(dataset))
    if np.isinf(values).any():
        frame = frames[np.argwhere(np.isinf(values))[0, 0]]
        raise UserError(
            f"{name}: frame {frame}, {label}: expected finite numbers or NaN (unknown), found inf"
        )
    _check_size(name, label, values, frames)
    unknown = np.isnan(values.reshape(len(values), -1))
    per_frame = np.bincount(frames, unknown.sum(axis=1), len(dataset))
    all_of_it = np.bincount(frames, minlength=len(dataset)) * unknown.shape[1]
    partly = np.flatnonzero((per_frame > 0) & (per_frame < all_of_it))
    if len(partly):
        k = partly[0]
        raise UserError(
            f"{name}: frame {k}, {label}: expected all numbers known, or all NaN, "
            f"found {int(per_frame[k])} of {all_of_it[k]} NaN"
        )


def _check_size(name: str, array: str, values: np.ndarray, frames: np.ndarray | None) -> None:
    large = np.argwhere(abs(values) > MOST)
    if len(large):
        row = large[0, 0]
        raise UserError(
            f"{name}: frame {row if frames is None else frames[row]}, {array}: expected numbers of at most "
            f"{MOST:g}, found {values[tuple(large[0])]:g}"
        )


def _check_geometry(dataset: Dataset, name: str, k: int) -> None:
    first, second, distance = frame_pairs(dataset, k, _SEARCH, name)
    if len(distance) and distance.min() < MIN_DISTANCE:
        pair = distance.argmin()
        raise UserError(
            f"{name}: frame {k}, positions: expected atoms at least {MIN_DISTANCE} Å apart, "
            f"found atoms {first[pair]} and {second[pair]} at {distance[pair]:.3f} Å"
        )


# Å. The cells of vesin's cell list are as wide as the cutoff: searching 2 Å is fifty times faster than 0.3 Å.
_SEARCH = 2.0


def frame_pairs(
    dataset: Dataset, k: int, cutoff: float, name: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of frame k nearer than ``cutoff`` (Å), images included, each once: (first, second, distance).

    UserError, beginning with ``name`` or the data set's path, where `neighbours.search` raises it.
    """
    rows = slice(dataset.atom_ptr[k], dataset.atom_ptr[k + 1])
    geometry = dataset.positions[rows], dataset.cell[k], dataset.pbc[k]
    return search(*geometry, cutoff, "ijd", f"{name or dataset.path or 'data'}: frame {k}", full=False)


def shortest_distances(dataset: Dataset) -> np.ndarray:
    """Shortest interatomic distance of each frame, Å, float64 [frames]; infinite for a lone atom."""
    shortest = np.full(len(dataset), np.inf)
    for k in range(len(dataset)):
        positions = dataset.positions[dataset.atom_ptr[k] : dataset.atom_ptr[k + 1]]
        reach = np.linalg.norm(np.ptp(positions, axis=0)) if not dataset.pbc[k].any() else np.inf
        cutoff = _SEARCH
        while not np.isfinite(shortest[k]):
            shortest[k] = frame_pairs(dataset, k, cutoff)[2].min(initial=np.inf)
            if cutoff > reach:
                break
            cutoff *= 2
    return shortest


ALIKE = 1e-4  # Å; coordinates nearer than this are the same but for rounding


def first_alike(dataset: Dataset) -> np.ndarray:
    """For each frame the first with the same atoms in the same places and cell, int64 [frames]; or itself.

    Labels do not matter. Places are the same to ALIKE: frames are sorted by one projection of coordinates,
    and only those that it does not tell apart are compared.
    """
    groups: dict[tuple[bytes, bytes], list[int]] = {}
    for k in range(len(dataset)):
        rows = slice(dataset.atom_ptr[k], dataset.atom_ptr[k + 1])
        groups.setdefault((dataset.numbers[rows].tobytes(), dataset.pbc[k].tobytes()), []).append(k)
    first = np.arange(len(dataset))
    for frames in groups.values():
        if len(frames) > 1:
            _find_alike(dataset, np.array(frames), first)
    return first


def repeated(dataset: Dataset, other: Dataset) -> np.ndarray:
    """Which frames of `other` are, see `first_alike`, among those of `dataset`, bool [frames]."""
    both = Dataset(
        np.concatenate([dataset.atom_ptr, dataset.atom_ptr[-1] + other.atom_ptr[1:]]),
        *(np.concatenate([getattr(dataset, name), getattr(other, name)]) for name in GEOMETRY),
    )
    return first_alike(both)[len(dataset) :] < len(dataset)


def _find_alike(dataset: Dataset, frames: np.ndarray, first: np.ndarray) -> None:
    places = np.stack(
        [
            np.concatenate(
                [dataset.positions[dataset.atom_ptr[k] : dataset.atom_ptr[k + 1]], dataset.cell[k]]
            ).ravel()
            for k in frames
        ]
    )
    direction = np.random.default_rng(0).normal(size=places.shape[1])
    projection = places @ direction
    reach = 3 * ALIKE * np.linalg.norm(direction)  # five standard deviations of what rounding does
    kinds: list[list[int]] = []  # rows that are alike, those first whose projection is largest
    for row in np.argsort(projection, kind="stable"):
        for kind in reversed(kinds):
            if projection[row] - projection[kind[0]] > reach:
                kinds.append([row])
                break
            if abs(places[row] - places[kind[0]]).max() < ALIKE:
                kind.append(row)
                break
        else:
            kinds.append([row])
    for kind in kinds:
        first[frames[kind]] = frames[kind].min()
