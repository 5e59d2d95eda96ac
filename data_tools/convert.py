"""Bring published data into the data set format: anything ASE reads, npz files, DeePMD folders.

Every reader turns its source into frames in the source's own units; one path from there assembles them,
converts to eV and Å, checks, and refuses to guess a label that is missing.
"""

import os
import pickle
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.data import atomic_numbers
from ase.io.formats import UnknownFileTypeError

from eqpot.data import (
    LABELS,
    MAX_NUMBER,
    Dataset,
    concatenate,
    read_dataset,
    validate,
    write_dataset,
)
from eqpot.errors import UserError
from eqpot.files import check_output

ENERGY_UNITS = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
    "Hartree": units.Hartree,
    "Ry": units.Rydberg,
}
LENGTH_UNITS = {"Ang": 1.0, "Bohr": units.Bohr, "nm": units.nm}
ALIASES = {"ha": "Hartree", "rydberg": "Ry", "a": "Ang", "å": "Ang", "angstrom": "Ang"}

# Spellings recognised in a plain npz, besides a key given by name
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
# The key sets of the MD17 family, whose published files are in kcal/mol and Å without saying so
MD17_KEYS = {
    "MD17/sGDML npz": {"R", "z", "E", "F"},
    "rMD17 npz": {"coords", "nuclear_charges", "energies", "forces"},
}


@dataclass
class Frame:
    """One structure as found in a source, in the source's units; None where it has no such thing."""

    numbers: Any
    positions: Any
    cell: Any = None
    pbc: Any = False
    energy: Any = None
    forces: Any = None
    stress: Any = None
    virial: Any = None
    group: str = ""


@dataclass
class Source:
    """What one source held: ``dataset`` in eV and Å, and what is worth telling about how it was read."""

    name: str
    kind: str
    dataset: Dataset
    energy_unit: str
    length_unit: str
    notes: list[str] = field(default_factory=list)


@dataclass
class Conversion:
    """The result of ``convert``: all frames as written, and the sources they came from."""

    dataset: Dataset
    sources: list[Source]


@dataclass
class _Found:
    """A source before units and checks."""

    name: str
    kind: str
    frames: list[Frame]
    energy_unit: str = "eV"
    length_unit: str = "Ang"
    hint: str = ""  # what a message about a missing label may add
    notes: list[str] = field(default_factory=list)
    attrs: dict = field(default_factory=dict)


def convert(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    keys: Mapping[str, str] | None = None,
    type_map: Sequence[str] | None = None,
    allow_missing: Collection[str] = (),
    attrs: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert ``sources``, in that order, into the data set file ``out``.

    energy_unit, length_unit: units of the sources (ENERGY_UNITS, LENGTH_UNITS), forces in energy/length and
    stress in energy/length^3. None means eV and Å, except for the MD17 family of npz, which is in kcal/mol.
    keys: array -> its name in the sources, for the arrays of SPELLINGS and "group" (default "config_type").
    type_map: element of each DeePMD type, where a folder has no type_map.raw.
    allow_missing: labels (energy, forces, stress) that frames may lack; they become NaN.
    attrs: free text for the file, such as level_of_theory.

    Stress is positive under tension; a virial is taken as -stress * volume. Energy and forces are required of
    every frame; stress of all frames periodic in three directions, or of none. A data set file among the
    sources is taken as it is. Raises UserError naming source, frame and array.
    """
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    check_output(out, overwrite)
    if Path(out).suffix not in (".h5", ".hdf5"):
        raise UserError(f"{out}: expected a name that ends in .h5 for what is written")
    if any(Path(out).resolve() == Path(source).resolve() for source in sources):
        raise UserError(f"{out}: expected another file than those that are read")
    keys = dict(keys or {})
    for name in keys:
        if name not in (*SPELLINGS, "group"):
            raise UserError(f"keys: expected one of {', '.join(SPELLINGS)}, group; found {name}")
    for name in allow_missing:
        if name not in LABELS:
            raise UserError(f"allow_missing: expected one of {', '.join(LABELS)}; found {name}")
    given = {
        "energy": energy_unit and _unit(energy_unit, ENERGY_UNITS, "energy"),
        "length": length_unit and _unit(length_unit, LENGTH_UNITS, "length"),
    }
    parts: list[Source] = []
    for path in sources:
        for found in _read(os.fspath(path), keys, type_map):
            if isinstance(found, Source):
                parts.append(found)
            else:
                parts.append(_finish(found, given, allow_missing))
    if not parts:
        raise UserError("convert: expected at least one source, found none")
    _check_stress(parts, allow_missing)
    names = [part.name for part in parts]
    about = {"source": ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")}
    theories = {part.dataset.attrs.get("level_of_theory") for part in parts}
    if len(theories) == 1 and None not in theories:
        about["level_of_theory"] = theories.pop()
    dataset = concatenate([part.dataset for part in parts], about | dict(attrs or {}))
    write_dataset(out, dataset)
    return Conversion(dataset, parts)


def _read(path: str, keys: dict, type_map: Sequence[str] | None) -> Iterator["_Found | Source"]:
    if os.path.isdir(path):
        yield from _read_deepmd(path, type_map)
    elif not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    elif path.endswith(".npz"):
        yield _read_npz(path, keys)
    elif path.endswith((".h5", ".hdf5")):
        yield Source(path, "eqpot data set", read_dataset(path), "eV", "Ang")
    else:
        yield _read_ase(path, keys)


# ---------------------------------------------------------------- whatever ASE reads


def _read_ase(path: str, keys: dict) -> _Found:
    if path.endswith((".xyz", ".extxyz")):
        _check_xyz_lines(path)
    frames: list[Frame] = []
    names: dict[str, None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for atoms in ase.io.iread(path, index=":", do_not_split_by_at_sign=True):
                frames.append(_frame_of_atoms(atoms, keys))
                names.update(dict.fromkeys(_labels_of(atoms)))
        except UnknownFileTypeError as error:
            raise _unrecognised(path, str(error)) from error
        except Exception as error:  # ASE's readers raise what they please on a broken file
            what = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: frame {len(frames)}: ASE cannot read it ({type(error).__name__}: {what})"
            ) from error
    if not frames:
        raise _unrecognised(path, "no frames found")
    return _Found(path, "ASE", frames, hint=f"the names there are: {', '.join(names) or 'none'}")


def _unrecognised(path: str, why: str) -> UserError:
    return UserError(
        f"{path}: the format is not recognised ({why}); what is read: extxyz and the other formats of ASE, "
        "npz, folders of DeePMD systems, data set files (.h5)"
    )


def _check_xyz_lines(path: str) -> None:
    """UserError where the frames do not follow one another.

    ASE ends in silence at a blank line, whatever follows, and cannot say which frame has the wrong length.
    """
    with open(path, errors="replace") as file:
        lines = enumerate(file, start=1)
        frame = 0
        for number, line in lines:
            if line.lstrip().startswith("VEC"):
                continue
            if not line.strip():
                rest = next((number for number, line in lines if line.strip()), None)
                if rest:
                    raise UserError(
                        f"{path}: expected nothing after the blank line {number}, found line {rest}"
                    )
                return
            try:
                atoms = int(line)
            except ValueError as error:
                raise UserError(
                    f"{path}: frame {frame}, line {number}: expected a number of atoms, "
                    f"found {_short(line.strip())}"
                ) from error
            found = sum(1 for _ in islice(lines, atoms + 1)) - 1
            if found < atoms:
                raise UserError(
                    f"{path}: frame {frame}: expected {atoms} lines of atoms, found {max(found, 0)}"
                )
            frame += 1


def _labels_of(atoms: Atoms) -> dict[str, Any]:
    """Everything in ``atoms`` that could be a label. ASE moves the standard names to the calculator."""
    arrays = {name: value for name, value in atoms.arrays.items() if name not in ("numbers", "positions")}
    return {**(atoms.calc.results if atoms.calc else {}), **atoms.info, **arrays}


def _frame_of_atoms(atoms: Atoms, keys: dict) -> Frame:
    there = _labels_of(atoms)
    labels = {name: there.get(keys.get(name, name)) for name in ("energy", "forces", "stress", "virial")}
    group = there.get(keys.get("group", "config_type"), "")
    return Frame(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, group=str(group), **labels)


# ---------------------------------------------------------------- npz


def _read_npz(path: str, keys: dict) -> _Found:
    arrays = _load_npz(path)
    value = {name: _pick(path, arrays, name, keys.get(name)) for name in SPELLINGS}
    for name in ("positions", "numbers"):
        if value[name] is None:
            raise UserError(
                f"{path}: {name}: expected one of the keys {', '.join(SPELLINGS[name])}, "
                f"found {', '.join(arrays) or 'none'}; name it by --{name}-key"
            )
    positions, numbers = value["positions"], value["numbers"]
    if positions.ndim == 2 and positions.dtype != object and numbers.shape == positions.shape[:1]:
        positions = positions[None]
    if positions.dtype != object and (positions.ndim != 3 or positions.shape[2] != 3):
        raise UserError(f"{path}: positions: expected shape (frames, atoms, 3), found {positions.shape}")
    count = len(positions)
    if not count:
        raise UserError(f"{path}: positions: expected at least one frame, found none")
    sizes = {np.shape(p)[:1] for p in positions}
    atoms = sizes.pop() if len(sizes) == 1 else (-1,)
    cell = value["cell"]
    cells = {(3, 3), (9,)} | ({(3,)} if cell is not None and cell.shape != (3, 3) else set())
    tensor = {(3, 3), (9,), (6,)}
    shapes = {
        "numbers": {atoms},
        "cell": cells,
        "pbc": {(3,)},
        "energy": {(), (1,)},
        "forces": {(*atoms, 3)},
        "stress": tensor,
        "virial": tensor,
    }
    columns = {
        name: _per_frame(
            path, name, value[name], count, shapes[name], shared=name in ("numbers", "cell", "pbc")
        )
        for name in shapes
    }
    if columns["pbc"] is None and columns["cell"] is not None:
        columns["pbc"] = [np.any(c) for c in columns["cell"]]
    columns = {name: column for name, column in columns.items() if column is not None}
    frames = [
        Frame(positions=positions[k], **{name: column[k] for name, column in columns.items()})
        for k in range(count)
    ]
    found = _Found(path, "npz", frames, hint=f"the keys there are: {', '.join(arrays)}")
    _npz_units(found, arrays)
    if "theory" in arrays:
        found.attrs["level_of_theory"] = _text(arrays["theory"])
    return found


def _npz_units(found: _Found, arrays: dict[str, np.ndarray]) -> None:
    """sGDML's newer files say their units; the rest of the MD17 family is known to be in kcal/mol."""
    family = next((name for name, names in MD17_KEYS.items() if names <= arrays.keys()), None)
    if family:
        found.kind = family
        found.energy_unit = "kcal/mol"
        if "e_unit" not in arrays:
            found.notes.append(
                f"{family} keys: kcal/mol assumed, as such files are published (--energy-unit)"
            )
    if "e_unit" in arrays:
        found.energy_unit = _text(arrays["e_unit"])
    if "r_unit" in arrays:
        found.length_unit = _text(arrays["r_unit"])


def _text(value: np.ndarray) -> str:
    value = value.item() if value.size == 1 else value.tolist()
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _load_npz(path: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            arrays = {}
            for name in names:
                with archive.open(name) as file:
                    arrays[name.removesuffix(".npy")] = _load_array(file)
    except Exception as error:  # damage surfaces as one of many types, from zip, header or pickle
        raise UserError(f"{path}: cannot be read as npz ({type(error).__name__}: {error})") from error
    return arrays


def _load_array(file) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read_header(file)
    if dtype.hasobject:
        return np.asarray(_ArraysOnly(file, encoding="latin1").load(), dtype=object).reshape(shape)
    data = np.frombuffer(file.read(), dtype=dtype, count=int(np.prod(shape)))
    return data.reshape(shape, order="F" if fortran_order else "C")


class _ArraysOnly(pickle.Unpickler):
    """Ragged frames come as pickled object arrays; a pickle of anything but arrays could run any code."""

    allowed = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}

    def find_class(self, module: str, name: str):
        if (module.split(".")[0] == "numpy" and name in self.allowed) or (module, name) == (
            "_codecs",
            "encode",
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"expected an array of arrays, found a pickled {module}.{name}")


def _pick(path: str, arrays: dict, name: str, key: str | None) -> np.ndarray | None:
    if key is not None:
        if key not in arrays:
            raise UserError(f"{path}: {name}: expected the key {key!r}, found {', '.join(arrays)}")
        return arrays[key]
    spellings = [spelling for spelling in SPELLINGS[name] if spelling in arrays]
    if len(spellings) > 1:
        raise UserError(
            f"{path}: {name}: expected one key, found {' and '.join(spellings)}; choose by --{name}-key"
        )
    return arrays[spellings[0]] if spellings else None


def _per_frame(path: str, name: str, array, count: int, shapes: set[tuple], shared: bool) -> list | None:
    """``array`` as ``count`` items, each of one of ``shapes``; one item stands for all where ``shared``."""
    if array is None:
        return None
    if array.dtype == object and array.shape[:1] == (count,):
        return list(array)
    if array.shape[:1] == (count,) and array.shape[1:] in shapes:
        return list(array)
    if (shared or count == 1) and (array.shape in shapes or (name == "pbc" and array.size == 1)):
        return [array] * count
    expected = " or ".join(str((count, *shape)) for shape in sorted(shapes))
    alone = " or one such item for all" if shared else ""
    raise UserError(f"{path}: {name}: expected shape {expected}{alone}, found {array.shape}")


# ---------------------------------------------------------------- DeePMD folders


def _read_deepmd(path: str, type_map: Sequence[str] | None) -> Iterator[_Found]:
    systems = sorted(file.parent for file in Path(path).rglob("type.raw"))
    if not systems:
        raise UserError(f"{path}: expected a DeePMD system (a folder with type.raw) in it, found none")
    for system in systems:
        sets = sorted(folder for folder in system.glob("set.*") if folder.is_dir())
        if not sets:
            raise UserError(f"{system}: expected folders set.* beside type.raw, found none")
        elements = _deepmd_elements(system, type_map)
        types = _integers(system / "type.raw")
        for folder in sets:
            yield _read_deepmd_set(folder, types, elements, periodic=not (system / "nopbc").exists())


def _deepmd_elements(system: Path, type_map: Sequence[str] | None) -> np.ndarray:
    """Atomic number of each type, int [types]."""
    file = system / "type_map.raw"
    if type_map:
        symbols = list(type_map)
    elif file.exists():
        symbols = file.read_text(errors="replace").split()
    else:
        raise UserError(f"{file}: no such file; say the element of each type by --type-map")
    unknown = [symbol for symbol in symbols if not atomic_numbers.get(symbol)]
    if unknown:
        raise UserError(f"{file}: expected chemical symbols, found {unknown[0]!r}")
    return np.array([atomic_numbers[symbol] for symbol in symbols])


def _integers(file: Path) -> np.ndarray:
    words = file.read_text(errors="replace").split()
    try:
        return np.array([int(word) for word in words])
    except ValueError as error:
        raise UserError(f"{file}: expected integers, found {words[:3]}") from error


def _read_deepmd_set(folder: Path, types: np.ndarray, elements: np.ndarray, periodic: bool) -> _Found:
    name = os.fspath(folder)

    def load(array: str, shape: tuple[int, ...], required: bool = False) -> list | None:
        file = folder / f"{array}.npy"
        if not file.exists():
            if required:
                raise UserError(f"{file}: no such file")
            return None
        try:
            values = np.load(file)
        except Exception as error:
            raise UserError(f"{file}: cannot be read as npy ({error})") from error
        count = len(values) if values.ndim else 0
        if count == 0 or values.size != count * int(np.prod(shape)):
            raise UserError(f"{file}: expected shape (frames, {int(np.prod(shape))}), found {values.shape}")
        return list(values.reshape(count, *shape))

    n = len(types)
    positions = load("coord", (n, 3), required=True)
    columns = {
        "types": load("real_atom_types", (n,)) or [types] * len(positions),
        "cell": load("box", (3, 3), required=True) if periodic else None,
        "energy": load("energy", ()),
        "forces": load("force", (n, 3)),
        "virial": load("virial", (3, 3)),
    }
    for array, column in columns.items():
        if column is not None and len(column) != len(positions):
            raise UserError(
                f"{name}: {array}: expected {len(positions)} frames as in coord.npy, found {len(column)}"
            )
    numbers = []
    for k, kinds in enumerate(columns.pop("types")):
        if kinds.min() < 0 or kinds.max() >= len(elements):
            wrong = kinds.min() if kinds.min() < 0 else kinds.max()
            raise UserError(
                f"{name}: frame {k}, types: expected 0 to {len(elements) - 1} (type_map), found {wrong}"
            )
        numbers.append(elements[kinds])
    given = {array: column for array, column in columns.items() if column is not None}
    frames = [
        Frame(numbers[k], positions[k], pbc=periodic, **{array: column[k] for array, column in given.items()})
        for k in range(len(positions))
    ]
    files = sorted(file.name for file in folder.glob("*.npy"))
    return _Found(name, "DeePMD", frames, hint=f"the files there are: {', '.join(files)}")


# ---------------------------------------------------------------- one path from frames to a data set


def _finish(found: _Found, given: dict[str, str | None], allow_missing: Collection[str]) -> Source:
    """Frames into a checked Dataset in eV and Å."""
    energy_unit = given["energy"] or _unit(found.energy_unit, ENERGY_UNITS, "energy", found.name)
    length_unit = given["length"] or _unit(found.length_unit, LENGTH_UNITS, "length", found.name)
    notes = [] if given["energy"] else list(found.notes)
    dataset = _assemble(found, notes)
    eV, Ang = ENERGY_UNITS[energy_unit], LENGTH_UNITS[length_unit]
    scales = {"positions": Ang, "cell": Ang, "energy": eV, "forces": eV / Ang, "stress": eV / Ang**3}
    for name, scale in scales.items():
        values = getattr(dataset, name)
        if values is not None and scale != 1.0:
            setattr(dataset, name, values * scale)
    validate(dataset, found.name)
    for label in ("energy", "forces"):
        missing = np.flatnonzero(~dataset.known(label))
        if len(missing) and label not in allow_missing:
            raise UserError(
                f"{found.name}: frame {missing[0]}, {label}: expected in every frame, found none "
                f"({len(missing)} of {len(dataset)} frames lack it; {found.hint}); name it by --{label}-key, "
                f"or give --allow-missing {label}"
            )
        if len(missing) == len(dataset):
            setattr(dataset, label, None)
    dataset.attrs.update(found.attrs)
    return Source(found.name, found.kind, dataset, energy_unit, length_unit, notes)


def _assemble(found: _Found, notes: list[str]) -> Dataset:
    """Concatenate frames, still in the source's units; a label that is absent becomes NaN."""
    count = len(found.frames)
    numbers, positions, forces = [], [], []
    cell, pbc = np.zeros((count, 3, 3)), np.zeros((count, 3), dtype=bool)
    energy, stress = np.full(count, np.nan), np.full((count, 3, 3), np.nan)
    unperiodic = from_virial = 0
    for k, frame in enumerate(found.frames):
        z = _numbers(found.name, k, frame.numbers)
        n = len(z)
        numbers.append(z)
        positions.append(_floats(found.name, k, "positions", frame.positions, {(n, 3)}))
        pbc[k] = _floats(found.name, k, "pbc", frame.pbc, {(), (1,), (3,)}) != 0
        if pbc[k].any():
            if frame.cell is None:
                raise UserError(f"{found.name}: frame {k}, cell: expected one where pbc is true, found none")
            vectors = _floats(found.name, k, "cell", frame.cell, {(3, 3), (9,), (3,)})
            vectors = np.diag(vectors) if vectors.shape == (3,) else vectors.reshape(3, 3)
            cell[k] = np.where(pbc[k][:, None], vectors, 0.0)
        if frame.energy is not None:
            energy[k] = _floats(found.name, k, "energy", frame.energy, {(), (1,)}).item()
        if frame.forces is None:
            forces.append(np.full((n, 3), np.nan))
        else:
            forces.append(_floats(found.name, k, "forces", frame.forces, {(n, 3)}))
        if frame.stress is None and frame.virial is None:
            continue
        if not pbc[k].all():
            unperiodic += 1
        elif frame.stress is not None:
            stress[k] = _tensor(found.name, k, "stress", frame.stress)
        else:
            from_virial += 1
            volume = abs(np.linalg.det(cell[k]))
            if volume > 0:  # else the cell is reported as what is wrong
                stress[k] = -_tensor(found.name, k, "virial", frame.virial) / volume
    if unperiodic:
        notes.append(f"stress ignored in {unperiodic} frames that are not periodic in three directions")
    if from_virial:
        notes.append(f"stress of {from_virial} frames is -virial / volume")
    groups = np.array([frame.group for frame in found.frames], dtype=object)
    return Dataset(
        atom_ptr=np.concatenate([[0], np.cumsum([len(z) for z in numbers])]).astype(np.int64),
        numbers=np.concatenate(numbers).astype(np.uint8),
        positions=np.concatenate(positions),
        cell=cell,
        pbc=pbc,
        energy=energy,
        forces=np.concatenate(forces),
        stress=None if np.isnan(stress).all() else stress,
        group=groups if any(groups) else None,
    )


def _check_stress(parts: list[Source], allow_missing: Collection[str]) -> None:
    """Stress is wanted of every frame that is periodic in three directions, once one of them has it."""
    if "stress" in allow_missing or all(part.dataset.stress is None for part in parts):
        return
    for part in parts:
        missing = np.flatnonzero(part.dataset.pbc.all(axis=1) & ~part.dataset.known("stress"))
        if len(missing):
            raise UserError(
                f"{part.name}: frame {missing[0]}, stress: expected, since other periodic frames have it, "
                f"found none ({len(missing)} of {len(part.dataset)} frames here); give --allow-missing stress"
            )


def _numbers(name: str, k: int, value) -> np.ndarray:
    numbers = np.asarray(value)
    if numbers.dtype.kind in "US":
        numbers = np.array([atomic_numbers.get(str(symbol), 0) for symbol in numbers.reshape(-1)])
    integral = numbers.dtype.kind in "iuf" and numbers.ndim == 1 and len(numbers)
    if not integral or (numbers != np.round(numbers)).any():
        raise UserError(f"{name}: frame {k}, numbers: expected a list of integers, found {_short(value)}")
    bad = numbers[(numbers < 1) | (numbers > MAX_NUMBER)]
    if len(bad):
        raise UserError(
            f"{name}: frame {k}, numbers: expected atomic numbers 1 to {MAX_NUMBER}, found {bad[0]:g}"
        )
    return numbers


def _floats(name: str, k: int, array: str, value, shapes: set[tuple[int, ...]]) -> np.ndarray:
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: frame {k}, {array}: expected numbers, found {_short(value)}") from error
    if values.shape not in shapes:
        expected = " or ".join(str(shape) for shape in sorted(shapes))
        raise UserError(f"{name}: frame {k}, {array}: expected shape {expected}, found {values.shape}")
    return values


def _tensor(name: str, k: int, array: str, value) -> np.ndarray:
    """A symmetric 3x3 tensor from nine numbers, or from six in ASE's Voigt order xx, yy, zz, yz, xz, xy."""
    values = _floats(name, k, array, value, {(3, 3), (9,), (6,)})
    if values.shape == (6,):
        return values[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    values = values.reshape(3, 3)
    return (values + values.T) / 2


def _unit(name: str, table: dict[str, float], what: str, source: str = "") -> str:
    """The table's own spelling of a unit's name."""
    wanted = ALIASES.get(name.lower(), name).lower()
    # case tells nothing, but for a capital M before eV: that is mega
    for known in table:
        if known.lower() == wanted and (known, name[:1]) != ("meV", "M"):
            return known
    where = f"{source}: " if source else ""
    raise UserError(f"{where}{what} unit: expected one of {', '.join(table)}; found {name}")


def _short(value) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 60 else text[:57] + "..."
