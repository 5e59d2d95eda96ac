"""Frames of folders of DeePMD systems."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from eqpot.data_tools.arrays import check_frames, read_npy, read_text
from eqpot.data_tools.labels import QUANTITIES, WEIGHT, is_weight, meaning
from eqpot.data_tools.sources import Found, Frame
from eqpot.data_tools.text import short
from eqpot.errors import UserError


def read_deepmd(path: str, keys: dict, type_map: Sequence[str] | None) -> Iterator[Found]:
    """All frames of each `set.*` of each system in a folder."""
    systems = sorted(file.parent for file in Path(path).rglob("type.raw"))
    if not systems:
        raise UserError(
            f"{path}: expected a DeePMD system (a folder with type.raw) in it, found none{_hint(Path(path))}"
        )
    for system in systems:
        sets = sorted(folder for folder in system.glob("set.*") if folder.is_dir())
        if not sets:
            raise UserError(f"{system}: expected folders set.* beside type.raw, found none")
        elements = _deepmd_elements(system, type_map)
        types = _integers(system / "type.raw")
        for folder in sets:
            yield _read_deepmd_set(folder, keys, types, elements, not (system / "nopbc").exists())


def _hint(folder: Path) -> str:
    """How to convert what the folder has instead: a few files by their names, more by their ending."""
    for ending in (".extxyz", ".xyz", ".npz", ".traj", ".h5", ".hdf5"):
        files = sorted(file for file in folder.rglob(f"*{ending}") if file.is_file())
        if not files:
            continue
        names = [shlex.quote(str(file)) for file in files]
        if len(names) > 3:
            together = len({file.parent for file in files}) == 1
            names = [f"{shlex.quote(str(files[0].parent))}/*{ending}" if together else f"{names[0]} ..."]
        return f"; try `eqpot data convert {' '.join(names)} DATA.h5`"
    return ""


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
) -> Found:
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
        elif file in (keys.get("weight"), WEIGHT):
            columns[file] = load(file, (), strict=keys.get("weight") == file)
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
    return Found(name, "DeePMD", frames, columns, hint=hint)
