"""Frames of extended xyz, read and written as ASE does it, in a third of its time.

With ASE's own functions a molecule takes as long to read and to write as its energy and forces to compute.
What is not plain, vectors after the atoms or a mask of what may move, and what is wrong, goes to ASE.
"""

import io
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.io.extxyz import (
    PROPERTY_NAME_MAP,
    key_val_dict_to_str,
    parse_properties,
    read_extxyz,
    set_calc_and_arrays,
    write_extxyz,
)
from ase.io.formats import open_with_compression

from eqpot.structures.xyz import BLANK, DEFAULT_COLUMNS, count_of_atoms, parse_comment

# ASE's letter and format of a column, by the kind of its numbers
FORMATS = {
    "f": ("R", "%16.8f"),
    "i": ("I", "%8d"),
    "b": ("L", " %.1s"),
    "O": ("S", "%s"),
    "U": ("S", "%-2s"),
}

Parser = Callable[[str], dict[str, Any]]

_columns = lru_cache(parse_properties)
_SYMBOLS = np.array(chemical_symbols)


def read_frames(path: str | Path, parse: Parser = parse_comment) -> Iterator[Atoms]:
    """All frames of a file, compressed or not, one after another; what `parse` makes of a comment is for ASE.

    Raises what ASE's reader and `parse` raise, and ValueError where frames do not follow one another.
    """
    parsed = lru_cache(parse)  # the frames of a trajectory often have one comment
    with open_with_compression(str(path), "r") as file:
        line = file.readline()
        while line.strip():
            count = count_of_atoms(line)
            head, rows = [line, file.readline()], list(islice(file, count))
            if len(rows) < count:
                raise ValueError(f"expected {count} lines of atoms, found {len(rows)}")
            vectors = []
            while (line := file.readline()).lstrip().startswith("VEC"):
                vectors.append(line)
            comment = head[1].strip()
            atoms = None if vectors else _atoms(deepcopy(parsed(comment)) if comment else {}, rows)
            yield _by_ase("".join([*head, *rows, *vectors]), parse) if atoms is None else atoms
        if any(more.strip() for more in file):
            raise ValueError(f"expected a number of atoms, found {BLANK}")


def _by_ase(text: str, parse: Parser) -> Atoms:
    (atoms,) = read_extxyz(io.StringIO(text), slice(None), properties_parser=parse)
    return atoms


def _atoms(info: dict[str, Any], rows: list[str]) -> Atoms | None:
    """A frame; None where it is for ASE. info: what its comment says, and what it is to keep."""
    properties, names, dtype, converters = _columns(info.pop("Properties", DEFAULT_COLUMNS))
    try:
        columns = list(zip(*map(str.split, rows), strict=True))
        if len(columns) != len(converters) or "move_mask" in names or len(set(names)) < len(names):
            return None
        arrays, k = {}, 0
        for name in names:
            there, width = properties[name]
            values = [list(map(converters[k], column)) for column in columns[k : k + width]]
            arrays[there] = np.array(values if width > 1 else values[0], dtype[k]).T
            k += width
    except (ValueError, TypeError, OverflowError):
        return None
    numbers, symbols = arrays.pop("numbers", None), arrays.pop("symbols", None)
    if numbers is None and symbols is not None:
        numbers = [symbol.capitalize() for symbol in symbols]
    lattice = info.pop("Lattice", None)
    atoms = Atoms(
        numbers,
        positions=arrays.pop("positions", None),
        charges=arrays.pop("initial_charges", None),
        cell=None if lattice is None else lattice.T,
        pbc=info.pop("pbc", lattice is not None),
        info=info,
    )
    set_calc_and_arrays(atoms, arrays)
    return atoms


def frame_text(atoms: Atoms) -> str:
    """The lines of a frame, with all that info and arrays hold; results of a calculator stay behind.

    A line break in info, which ends a comment for every reader, becomes a space.
    """
    columns = {"symbols": _SYMBOLS[atoms.numbers], **atoms.arrays}
    del columns["numbers"]
    kinds = tuple((name, a.dtype.kind, a.shape[1:]) for name, a in columns.items())
    properties, row = _heading(kinds)
    if atoms.constraints or not row or not len(atoms):
        text = io.StringIO()
        write_extxyz(text, atoms, write_results=False)
        return text.getvalue()
    cell = atoms.cell[:]
    lattice = f'Lattice="{" ".join(map(str, cell.ravel().tolist()))}" ' if cell.any() else ""
    info = {name: x.replace("\n", " ") if isinstance(x, str) else x for name, x in atoms.info.items()}
    comment = key_val_dict_to_str({**info, "pbc": atoms.pbc})
    lists = [part for a in columns.values() for part in ([a.tolist()] if a.ndim == 1 else a.T.tolist())]
    numbers = [x for line in zip(*lists, strict=True) for x in line]
    return f"{len(atoms)}\n{lattice}Properties={properties} {comment}\n" + row * len(atoms) % tuple(numbers)


@lru_cache
def _heading(kinds: tuple[tuple[str, str, tuple[int, ...]], ...]) -> tuple[str, str]:
    """What a comment says of columns, and the format of a line; empty where they are for ASE.

    kinds: name, kind of numbers, and shape for an atom.
    """
    first = kinds[0][1] == "U" and kinds[1] == ("positions", "f", (3,))
    again = {"species", "pos"} & {name for name, _, _ in kinds}
    if not first or again or not all(kind in FORMATS and len(shape) < 2 for _, kind, shape in kinds):
        return "", ""
    widths = [(name, FORMATS[kind], math.prod(shape)) for name, kind, shape in kinds]
    properties = ":".join(
        f"{PROPERTY_NAME_MAP.get(name, name)}:{letter}:{width}" for name, (letter, _), width in widths
    )
    return properties, " ".join(form for _, (_, form), width in widths for _ in range(width)) + "\n"
