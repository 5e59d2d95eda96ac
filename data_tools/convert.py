"""Bring published data into the data set format: anything ASE reads, npz files, DeePMD folders.

Every reader turns its source into frames in the source's own units and everything that was found beside them,
by its name; one path from there chooses the labels, assembles the frames, converts to eV and Å and checks. It
refuses to guess a label that is missing, and to choose between two.
"""

import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.extxyz import per_atom_properties
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
from eqpot.data_tools.arrays import check_frames, read_npy, read_npz, read_text
from eqpot.data_tools.doubts import GPA, doubts, other_units
from eqpot.data_tools.info import duplicates
from eqpot.data_tools.labels import QUANTITIES, choose, is_weight, meaning
from eqpot.data_tools.text import COMPRESSED, check_xyz, lines, short
from eqpot.data_tools.units import ENERGY_UNITS, LENGTH_UNITS, force_unit, stress_unit, unit
from eqpot.errors import UserError
from eqpot.files import check_output
from eqpot.xyz import hints_at_a_cell, names_a_cell, parse_comment, reading

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
    other_units: str = ""  # of forces and stress, where they were given


@dataclass
class Conversion:
    """The result of ``convert``: all frames as written, their sources, and notes on all of them together."""

    dataset: Dataset
    sources: list[Source]
    notes: list[str]


@dataclass
class _Found:
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


@dataclass
class _Units:
    """What one of each is in eV and Å."""

    energy: float
    length: float
    forces: float
    stress: float


def convert(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    force_unit: str | None = None,
    stress_unit: str | None = None,
    keys: Mapping[str, str] | None = None,
    type_map: Sequence[str] | None = None,
    allow_missing: Collection[str] = (),
    attrs: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert ``sources``, in that order, into the data set file ``out``.

    energy_unit, length_unit: units of the sources (ENERGY_UNITS, LENGTH_UNITS). None means eV and Å, except
    for the MD17 family of npz, which is in kcal/mol. force_unit: such as Hartree/Bohr, default energy/length.
    stress_unit: such as GPa or eV/Ang^3, default energy/length^3. A virial is in the unit of energy.
    keys: array -> its name in the sources, for the arrays of SPELLINGS and "group" (default "config_type").
    Labels that are not named are found by their spelling, see labels.choose.
    type_map: element of each DeePMD type, where a folder has no type_map.raw.
    allow_missing: labels (energy, forces, stress) that frames may lack; they become NaN.
    attrs: free text for the file, such as level_of_theory.

    Stress is positive under tension; a virial is taken as -stress * volume. Where both are there and neither
    is in ``keys``, they must agree. Six components are in the order xx, yy, zz, yz, xz, xy. Energy and forces
    are required of every frame; stress of all frames periodic in three directions, or of none. A data set
    file among the sources is taken as it is. Raises UserError naming source, frame and array.
    """
    try:
        return _convert(
            sources,
            out,
            {"energy": energy_unit, "length": length_unit, "force": force_unit, "stress": stress_unit},
            dict(keys or {}),
            type_map,
            allow_missing,
            dict(attrs or {}),
            overwrite,
        )
    except MemoryError as error:
        raise UserError("convert: the sources need more memory than there is") from error


def _convert(sources, out, given, keys, type_map, allow_missing, attrs, overwrite) -> Conversion:
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    check_output(out, overwrite)
    if Path(out).suffix not in (".h5", ".hdf5"):
        raise UserError(f"{out}: expected a name that ends in .h5 for what is written")
    if any(Path(out).resolve() == Path(source).resolve() for source in sources):
        raise UserError(f"{out}: expected another file than those that are read")
    for name in keys:
        if name not in (*SPELLINGS, "group"):
            raise UserError(f"keys: expected one of {', '.join(SPELLINGS)}, group; found {name}")
    for name in allow_missing:
        if name not in LABELS:
            raise UserError(f"allow_missing: expected one of {', '.join(LABELS)}; found {name}")
    for what, table in (("energy", ENERGY_UNITS), ("length", LENGTH_UNITS)):
        given[what] = given[what] and unit(given[what], table, what)
    parts: list[Source] = []
    for path in sources:
        for found in _read(os.fspath(path), keys, type_map):
            if isinstance(found, Source):
                parts.append(found)
            else:
                parts.append(_finish(found, given, keys, allow_missing))
    if not parts:
        raise UserError("convert: expected at least one source, found none")
    _check_stress(parts, allow_missing)
    names = [part.name for part in parts]
    about = {"source": ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")}
    theories = [part.dataset.attrs.get("level_of_theory") for part in parts]
    theories = {None if theory is None else str(theory) for theory in theories}
    if len(theories) == 1 and None not in theories:
        about["level_of_theory"] = theories.pop()
    dataset = concatenate([part.dataset for part in parts], about | attrs)
    notes = [told] if (told := duplicates(dataset).told(_places(parts))) else []
    write_dataset(out, dataset)
    return Conversion(dataset, parts, notes)


def _places(parts: list[Source]) -> list[str]:
    """What to call each frame of all sources together."""
    return [
        f"frame {k}" + (f" of {part.name}" if len(parts) > 1 else "")
        for part in parts
        for k in range(len(part.dataset))
    ]


def _read(path: str, keys: dict, type_map: Sequence[str] | None) -> Iterator["_Found | Source"]:
    if os.path.isdir(path):
        yield from _read_deepmd(path, keys, type_map)
    elif not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    elif not os.path.isfile(path):
        raise UserError(f"{path}: expected a file or a folder, found a device or a pipe")
    elif path.endswith(".npz"):
        yield _read_npz(path, keys)
    elif path.endswith((".h5", ".hdf5")):
        yield Source(path, "eqpot data set", read_dataset(path), "eV", "Ang")
    else:
        yield _read_ase(path, keys)


# ---------------------------------------------------------------- whatever ASE reads


def _read_ase(path: str, keys: dict) -> _Found:
    notes: list[str] = []
    how = reading(path)
    if how:
        check_xyz(path, notes)
        how["properties_parser"] = _parse_apart
    elif path.lower().endswith(tuple(COMPRESSED)):
        for _ in lines(path):
            pass  # ends where there is too much of it
    frames: list[Frame] = []
    columns: dict[str, list] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for atoms in ase.io.iread(path, index=":", do_not_split_by_at_sign=True, **how):
                there = _beside(atoms)
                for name, value in there.items():
                    column = columns.setdefault(name, [])
                    column += [None] * (len(frames) - len(column)) + [value]
                frames.append(_frame_of_atoms(atoms, there, keys))
        except UnknownFileTypeError as error:
            raise _unrecognised(path, str(error)) from error
        except UserError as error:
            raise UserError(f"{path}: frame {len(frames)}, {error}") from error
        except Exception as error:  # ASE's readers raise what they please on a broken file
            what = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: frame {len(frames)}: ASE cannot read it ({type(error).__name__}: {what})"
            ) from error
    if not frames:
        raise _unrecognised(path, "no frames found")
    for column in columns.values():
        column += [None] * (len(frames) - len(column))
    columns.pop(_SPECIES, None)
    _check_group(path, keys, columns)
    return _Found(
        path,
        "ASE",
        frames,
        columns,
        hint="; ".join([f"the names there are: {', '.join(columns) or 'none'}", *notes]),
        notes=notes,
    )


def _check_group(path: str, keys: dict, columns: Collection[str]) -> None:
    if "group" in keys and keys["group"] not in columns:
        raise UserError(
            f"{path}: group: expected the key {keys['group']!r}, found {', '.join(columns) or 'none'}"
        )


def _unrecognised(path: str, why: str) -> UserError:
    return UserError(
        f"{path}: the format is not recognised ({why}); what is read: extxyz and the other formats of ASE, "
        "npz, folders of DeePMD systems, data set files (.h5)"
    )


# Where the parts of a comment line and the species wait, out of ASE's reach: it would take one half of a
# stress for all of it, and CU for Cu
_REST, _SPECIES = "rest of the comment", "names_of_atoms"


def _parse_apart(line: str) -> dict[str, Any]:
    info = parse_comment(line)
    kept = {name: info.pop(name) for name in ("Lattice", "pbc", "Properties") if name in info}
    fields = kept.get("Properties", "species:S:1:pos:R:3").split(":")
    if "Z" not in fields[::3]:
        fields[::3] = [_SPECIES if name == "species" else name for name in fields[::3]]
    return {**kept, "Properties": ":".join(fields), _REST: info}


def _beside(atoms: Atoms) -> dict[str, Any]:
    """Everything in ``atoms`` beside its geometry. ASE moves the standard names to the calculator."""
    info = dict(atoms.info)
    info |= info.pop(_REST, {})
    if "comment" in info:  # of a frame with VEC lines
        info |= {
            name: value
            for name, value in parse_comment("pbc=F " + info.pop("comment")).items()
            if name != "pbc"
        }
    per_atom = {name: value for name, value in atoms.arrays.items() if name not in ("numbers", "positions")}
    for name, value in (atoms.calc.results if atoms.calc else {}).items():
        (per_atom if name in per_atom_properties else info)[name] = value
    # True is a lone word of a comment, such as `energy:`
    there = {name: value for name, value in info.items() if value is not None and value is not True}
    for name, value in per_atom.items():
        found = meaning(name)
        # an energy or a stress of each atom is no frame's
        there[name if not found or found[0] == "forces" else f"{name} (per atom)"] = value
    return there


def _frame_of_atoms(atoms: Atoms, there: dict[str, Any], keys: dict) -> Frame:
    group = there.get(keys.get("group", "config_type"), "")
    numbers = there.get(_SPECIES, atoms.numbers)
    return Frame(numbers, atoms.positions, atoms.cell.array, atoms.pbc, str(group))


# ---------------------------------------------------------------- npz


def _read_npz(path: str, keys: dict) -> _Found:
    arrays = read_npz(path)
    value = {
        name: _pick(path, arrays, name, keys.get(name)) for name in ("positions", "numbers", "cell", "pbc")
    }
    for name in ("positions", "numbers"):
        if value[name] is None:
            raise UserError(
                f"{path}: {name}: expected one of the keys {', '.join(SPELLINGS[name])}, "
                f"found {', '.join(arrays) or 'none'}; name it by --{name}-key"
            )
    positions, numbers = value["positions"], value["numbers"]
    if positions.ndim == 2 and numbers.shape == positions.shape[:1]:
        positions = positions[None]
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise UserError(f"{path}: positions: expected shape (frames, atoms, 3), found {positions.shape}")
    if not positions.size:
        raise UserError(f"{path}: positions: expected at least one frame, found none")
    check_frames(path, len(positions))
    _check_cell_names(path, arrays, value)
    count, atoms = len(positions), positions.shape[1:2]
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
    geometry = {
        name: _per_frame(path, name, value[name], count, shapes[name], shared=name != "positions")
        for name in ("numbers", "cell", "pbc")
    }
    if geometry["pbc"] is None and geometry["cell"] is not None:
        geometry["pbc"] = [np.any(c) for c in geometry["cell"]]
    geometry = {name: column for name, column in geometry.items() if column is not None}
    _check_group(path, keys, arrays)
    if "group" in keys:
        geometry["group"] = [
            _text(path, "group", np.asarray(g))
            for g in _per_frame(path, "group", arrays[keys["group"]], count, {()})
        ]
    frames = [
        Frame(positions=positions[k], **{name: column[k] for name, column in geometry.items()})
        for k in range(count)
    ]
    for quantity in QUANTITIES:
        _pick(path, arrays, quantity, keys.get(quantity), ())
    columns = {}
    for name, array in arrays.items():
        quantity = _npz_quantity(name, keys)
        if quantity:
            columns[name] = _npz_column(
                path, name, array, count, shapes[quantity], keys.get(quantity) == name
            )
        elif is_weight(name):
            columns[name] = [array] * count
    columns = {name: column for name, column in columns.items() if column is not None}
    hint = f"the keys there are: {', '.join(arrays)}"
    found = _Found(path, "npz", frames, columns, letters=True, hint=hint)
    _npz_units(found, arrays)
    if "theory" in arrays:
        found.attrs["level_of_theory"] = _text(path, "theory", arrays["theory"])
    return found


def _check_cell_names(path: str, arrays: dict, value: dict) -> None:
    """UserError where a lattice has a name that is none of SPELLINGS, and would be passed over."""
    if value["cell"] is not None or (value["pbc"] is not None and not np.any(value["pbc"])):
        return
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf" or not array.size:
            continue
        first = array if array.size < 10 else array[0]  # of the frames
        if (names_a_cell(name) and np.any(array)) or hints_at_a_cell(name, first):
            raise UserError(
                f"{path}: cell: expected one of the keys {', '.join(SPELLINGS['cell'])}, found {name}; "
                f"name it by --cell-key {name}, or add pbc = False where nothing repeats"
            )


def _npz_quantity(name: str, keys: dict) -> str | None:
    """The label that an array is, or looks like."""
    named = [quantity for quantity in QUANTITIES if keys.get(quantity) == name]
    plain = [quantity for quantity in QUANTITIES if name in SPELLINGS[quantity]]
    found = meaning(name)
    return (named or plain or [found[0] if found else None])[0]


def _npz_column(path: str, name: str, array, count: int, shapes: set[tuple], named: bool) -> list | None:
    """The array by frames; None where it only looks like a label and is not one value for each."""
    try:
        return _per_frame(path, name, array, count, shapes)
    except UserError:
        if named or any(name in spellings for spellings in SPELLINGS.values()):
            raise
        return None


def _npz_units(found: _Found, arrays: dict[str, np.ndarray]) -> None:
    """sGDML's newer files say their units; the rest of the MD17 family is known to be in kcal/mol."""
    family = next((name for name, names in MD17_KEYS.items() if names <= arrays.keys()), None)
    if family:
        found.kind = family
        found.energy_unit = "kcal/mol"
        if "e_unit" not in arrays:
            found.assumed = f"{family} keys: kcal/mol assumed, as such files are published (--energy-unit)"
    if "e_unit" in arrays:
        found.energy_unit = _text(found.name, "e_unit", arrays["e_unit"])
    if "r_unit" in arrays:
        found.length_unit = _text(found.name, "r_unit", arrays["r_unit"])


def _text(path: str, name: str, value: np.ndarray) -> str:
    value = value.item() if value.size == 1 else value.tolist()
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    try:
        text.lower()
    except SystemError as error:  # NumPy makes texts of what are no characters
        raise UserError(f"{path}: {name}: expected a text, found bytes that are none") from error
    return text


def _pick(
    path: str, arrays: dict, name: str, key: str | None, known: Sequence[str] | None = None
) -> np.ndarray | None:
    if key is not None:
        if key not in arrays:
            raise UserError(f"{path}: {name}: expected the key {key!r}, found {', '.join(arrays)}")
        return arrays[key]
    spellings = [spelling for spelling in (SPELLINGS[name] if known is None else known) if spelling in arrays]
    if len(spellings) > 1:
        raise UserError(
            f"{path}: {name}: expected one key, found {' and '.join(spellings)}; choose by --{name}-key"
        )
    return arrays[spellings[0]] if spellings else None


def _per_frame(
    path: str, name: str, array: np.ndarray | None, count: int, shapes: set[tuple], shared: bool = False
) -> list | None:
    """``array`` as ``count`` items, each of one of ``shapes``; one item stands for all where ``shared``."""
    if array is None:
        return None
    if array.shape[:1] == (count,) and array.shape[1:] in shapes:
        return list(array)
    if (shared or count == 1) and (array.shape in shapes or (name == "pbc" and array.size == 1)):
        return [array] * count
    expected = " or ".join(str((count, *shape)) for shape in sorted(shapes))
    alone = " or one such item for all" if shared else ""
    raise UserError(f"{path}: {name}: expected shape {expected}{alone}, found {array.shape}")


# ---------------------------------------------------------------- DeePMD folders


def _read_deepmd(path: str, keys: dict, type_map: Sequence[str] | None) -> Iterator[_Found]:
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
            yield _read_deepmd_set(folder, keys, types, elements, not (system / "nopbc").exists())


def _deepmd_elements(system: Path, type_map: Sequence[str] | None) -> np.ndarray:
    """Atomic number of each type, int [types]."""
    file = system / "type_map.raw"
    if type_map:
        symbols = list(type_map)
    elif file.exists():
        symbols = read_text(file).split()
    else:
        raise UserError(f"{file}: no such file; say the element of each type by --type-map")
    unknown = [symbol for symbol in symbols if not atomic_numbers.get(symbol)]
    if unknown:
        raise UserError(f"{file}: expected chemical symbols, found {unknown[0]!r}")
    return np.array([atomic_numbers[symbol] for symbol in symbols])


def _integers(file: Path) -> np.ndarray:
    found = read_text(file).split()
    try:
        return np.array([int(word) for word in found])
    except ValueError as error:
        raise UserError(f"{file}: expected integers, found {short(found[:3])}") from error


def _read_deepmd_set(
    folder: Path, keys: dict, types: np.ndarray, elements: np.ndarray, periodic: bool
) -> _Found:
    name = os.fspath(folder)

    def load(array: str, *shapes: tuple[int, ...], strict: bool = True) -> list:
        file = folder / f"{array}.npy"
        values = read_npy(file)
        count = len(values) if values.ndim else 0
        check_frames(str(file), count)
        for shape in shapes:
            size = int(np.prod(shape))
            if count and values.size == count * size and (size > 1 or values.ndim < 3):
                return list(values.reshape(count, *shape))
        if count and not strict:
            return list(values)
        expected = " or ".join(f"(frames, {int(np.prod(shape))})" for shape in shapes)
        raise UserError(f"{file}: expected shape {expected}, found {values.shape}")

    if not (n := len(types)):
        raise UserError(f"{folder.parent / 'type.raw'}: expected a type of each atom, found none")
    positions = load("coord", (n, 3))
    geometry = {
        "types": load("real_atom_types", (n,))
        if (folder / "real_atom_types.npy").exists()
        else [types] * len(positions),
        "cell": load("box", (3, 3)) if periodic else None,
    }
    files = sorted(file.stem for file in folder.glob("*.npy"))
    hint = f"the files there are: {', '.join(f'{file}.npy' for file in files)}"
    shapes = {"energy": ((),), "forces": ((n, 3),), "stress": ((3, 3), (6,)), "virial": ((3, 3), (6,))}
    columns = {}
    for file in files:
        named = [quantity for quantity in QUANTITIES if keys.get(quantity) == file]
        found = meaning(file)
        if named or found:
            strict = bool(named) or not found[1]
            columns[file] = load(file, *shapes[named[0] if named else found[0]], strict=strict)
        elif is_weight(file):
            columns[file] = [None] * len(positions)  # to be told of
    for array, column in (geometry | columns).items():
        if column is not None and len(column) != len(positions):
            raise UserError(
                f"{name}: {array}: expected {len(positions)} frames as in coord.npy, found {len(column)}"
            )
    numbers = []
    for k, kinds in enumerate(geometry["types"]):
        if kinds.dtype.kind not in "iu":
            raise UserError(f"{name}: frame {k}, types: expected integers, found {short(kinds.tolist())}")
        if kinds.min() < 0 or kinds.max() >= len(elements):
            wrong = kinds.min() if kinds.min() < 0 else kinds.max()
            raise UserError(
                f"{name}: frame {k}, types: expected 0 to {len(elements) - 1} (type_map), found {wrong}"
            )
        numbers.append(elements[kinds])
    cells = geometry["cell"] or [None] * len(positions)
    frames = [Frame(numbers[k], positions[k], cells[k], periodic) for k in range(len(positions))]
    return _Found(name, "DeePMD", frames, columns, hint=hint)


# ---------------------------------------------------------------- one path from frames to a data set


def _finish(
    found: _Found, given: dict[str, str | None], keys: dict, allow_missing: Collection[str]
) -> Source:
    """Frames into a checked Dataset in eV and Å."""
    energy_unit = given["energy"] or unit(found.energy_unit, ENERGY_UNITS, "energy", found.name)
    length_unit = given["length"] or unit(found.length_unit, LENGTH_UNITS, "length", found.name)
    force = force_unit(given["force"] or f"{energy_unit}/{length_unit}")
    stress = stress_unit(given["stress"] or f"{energy_unit}/{length_unit}^3")
    scales = _Units(ENERGY_UNITS[energy_unit], LENGTH_UNITS[length_unit], force[1], stress[1])
    notes = [found.assumed] if found.assumed and not given["energy"] else []
    chosen = choose(found.name, found.columns, keys, told := list(found.notes), found.letters)
    with np.errstate(all="ignore"):  # validate tells of what is not finite
        dataset = _assemble(found, chosen, scales, notes)
    notes += told
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
    used = {
        "energy": energy_unit,
        "forces": force[0],
        "stress": stress[0],
        "virial": energy_unit,
        "length": length_unit,
    }
    notes += other_units(found.columns, used) + doubts(dataset)
    other = [f"forces in {force[0]}"] * bool(given["force"]) + [f"stress in {stress[0]}"] * bool(
        given["stress"]
    )
    return Source(found.name, found.kind, dataset, energy_unit, length_unit, notes, ", ".join(other))


def _assemble(found: _Found, chosen: dict[str, str], scales: _Units, notes: list[str]) -> Dataset:
    """Concatenate frames, in eV and Å; a label that is absent becomes NaN."""
    count = len(found.frames)
    absent = [None] * count
    energies, forces_there, stresses, virials = (
        found.columns.get(chosen.get(q, ""), absent) for q in QUANTITIES
    )
    numbers, positions, forces = [], [], []
    cell, pbc = np.zeros((count, 3, 3)), np.zeros((count, 3), dtype=bool)
    energy, stress = np.full(count, np.nan), np.full((count, 3, 3), np.nan)
    unperiodic = from_virial = uneven = 0
    for k, frame in enumerate(found.frames):
        z = _numbers(found.name, k, frame.numbers)
        n = len(z)
        numbers.append(z)
        positions.append(_floats(found.name, k, "positions", frame.positions, {(n, 3)}) * scales.length)
        flags = np.asarray(frame.pbc)
        if flags.dtype.kind not in "biuf":
            raise UserError(
                f"{found.name}: frame {k}, pbc: expected true and false, found {short(frame.pbc)}"
            )
        pbc[k] = flags.ravel() != 0
        if pbc[k].any():
            if frame.cell is None:
                raise UserError(f"{found.name}: frame {k}, cell: expected one where pbc is true, found none")
            vectors = _floats(found.name, k, "cell", frame.cell, {(3, 3), (9,), (3,)}) * scales.length
            vectors = np.diag(vectors) if vectors.shape == (3,) else vectors.reshape(3, 3)
            cell[k] = np.where(pbc[k][:, None], vectors, 0.0)
        if energies[k] is not None:
            energy[k] = _floats(found.name, k, "energy", energies[k], {(), (1,)}).item() * scales.energy
        if forces_there[k] is None:
            forces.append(np.full((n, 3), np.nan))
        else:
            forces.append(_floats(found.name, k, "forces", forces_there[k], {(n, 3)}) * scales.forces)
        if stresses[k] is None and virials[k] is None:
            continue
        if not pbc[k].all():
            unperiodic += 1
            continue
        volume = abs(np.linalg.det(cell[k]))
        if volume == 0:
            continue  # the cell is reported as what is wrong
        if stresses[k] is not None:
            stress[k], uneven_here = _tensor(found.name, k, "stress", stresses[k])
            stress[k] *= scales.stress
            uneven += uneven_here
        if virials[k] is not None:
            virial, uneven_here = _tensor(found.name, k, "virial", virials[k])
            virial *= scales.energy
            uneven += uneven_here
            if stresses[k] is None:
                from_virial += 1
                stress[k] = -virial / volume
            else:
                _check_virial(f"{found.name}: frame {k}", chosen, stress[k], virial, volume)
    if unperiodic:
        notes.append(f"stress ignored in {unperiodic} frames that are not periodic in three directions")
    if from_virial:
        notes.append(f"stress of {from_virial} frames is -virial / volume")
    if uneven:
        notes.append(f"stress of {uneven} frames is not quite symmetric: the mean of both halves was taken")
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


def _check_virial(
    place: str, chosen: dict[str, str], stress: np.ndarray, virial: np.ndarray, volume: float
) -> None:
    """UserError where a stress is not -virial / volume, with the factor between them where there is one."""
    other = -virial / volume
    size = max(abs(stress).max(), abs(other).max())
    if not abs(stress - other).max() > 1e-3 * size + 1e-5:
        return
    factor = (stress * other).sum() / max((other**2).sum(), 1e-300)
    why = ""
    if abs(stress - factor * other).max() < 1e-2 * abs(stress).max():
        known = {1: "the sign", volume: "the volume", 1 / GPA: "GPa", 10 / GPA: "kbar"}
        names = [name for value, name in known.items() if abs(abs(factor) / value - 1) < 1e-2]
        why = f", {factor:.4g} times that" + (f": {names[0]} alone differs" if names else "")
    at = np.unravel_index(abs(stress - other).argmax(), (3, 3))
    raise UserError(
        f"{place}, stress: expected -virial / volume = {other[at]:.4g} eV/Å^3 ({chosen['virial']}), "
        f"found {stress[at]:.4g} ({chosen['stress']}){why}; "
        f"choose by --stress-key {chosen['stress']} or --virial-key {chosen['virial']}"
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
    if numbers.dtype.kind in "USO":
        symbols = [str(symbol) for symbol in numbers.reshape(-1)]
        for atom, symbol in enumerate(symbols):
            if symbol not in atomic_numbers:
                hint = f"; is it {symbol.capitalize()}?" if symbol.capitalize() in atomic_numbers else ""
                hint = hint or (
                    "; a column of atomic numbers is Z:I:1 in Properties" if symbol.isdigit() else ""
                )
                raise UserError(
                    f"{name}: frame {k}, atom {atom}: expected a chemical symbol such as Cu, "
                    f"found {short(symbol)}{hint}"
                )
        numbers = np.array([atomic_numbers[symbol] for symbol in symbols])
    integral = numbers.dtype.kind in "iuf" and numbers.ndim == 1 and len(numbers)
    if not integral or (numbers != np.round(numbers)).any():
        raise UserError(f"{name}: frame {k}, numbers: expected a list of integers, found {short(value)}")
    bad = numbers[(numbers < 1) | (numbers > MAX_NUMBER)]
    if len(bad):
        raise UserError(
            f"{name}: frame {k}, numbers: expected atomic numbers 1 to {MAX_NUMBER}, found {bad[0]:g}"
        )
    return numbers


def _floats(name: str, k: int, array: str, value, shapes: set[tuple[int, ...]]) -> np.ndarray:
    try:
        values = np.asarray(value)
    except ValueError as error:  # lists of unequal lengths
        raise UserError(f"{name}: frame {k}, {array}: expected numbers, found {short(value)}") from error
    if values.dtype.kind not in "iuf":
        raise UserError(f"{name}: frame {k}, {array}: expected numbers, found {short(value)}")
    if values.shape not in shapes:
        expected = " or ".join(str(shape) for shape in sorted(shapes))
        raise UserError(f"{name}: frame {k}, {array}: expected shape {expected}, found {values.shape}")
    return values.astype(np.float64)


def _tensor(name: str, k: int, array: str, value) -> tuple[np.ndarray, bool]:
    """A symmetric 3x3 tensor from nine numbers, or from six in ASE's Voigt order xx, yy, zz, yz, xz, xy.

    Nine may be symmetric but for noise: then also True. UserError where they are not, as with one half zero.
    """
    values = _floats(name, k, array, value, {(3, 3), (9,), (6,)})
    if values.shape == (6,):
        return values[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3), False
    values = values.reshape(3, 3)
    size, uneven = abs(values).max(), abs(values - values.T)
    upper, lower = values[np.triu_indices(3, 1)], values[np.tril_indices(3, -1)]
    half = any(not a.any() and abs(b).max() > 1e-6 * size for a, b in ((upper, lower), (lower, upper)))
    if half or uneven.max() > 0.1 * size:
        i, j = np.unravel_index(uneven.argmax(), (3, 3))
        what = (
            f"zeros on one side of its diagonal and {values[i, j]:.4g} and {values[j, i]:.4g} at"
            if half
            else (f"{values[i, j]:.4g} and {values[j, i]:.4g} at")
        )
        raise UserError(
            f"{name}: frame {k}, {array}: expected nine numbers of a symmetric tensor, found {what} "
            f"{'xyz'[i]}{'xyz'[j]} and {'xyz'[j]}{'xyz'[i]}"
        )
    return (values + values.T) / 2, bool(uneven.max() > 1e-3 * size)
