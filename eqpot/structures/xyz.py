"""Comment lines of extended xyz, as ASE reads them but for its traps.

ASE knows `Lattice`, `pbc` and `Properties` in this spelling alone: with `lattice=` it reads a crystal as a
cluster, and says nothing. Here case does not matter, and what looks like a lattice is one or is refused.
"""

import lzma
import re
import zlib
from collections import deque
from contextlib import suppress
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from eqpot.errors import UserError

MOST_DIGITS = 12  # of a number of atoms
DEFAULT_COLUMNS = "species:S:1:pos:R:3"  # where a comment does not tell them
BLANK = "a blank line and more after it"  # where ASE ends in silence
# ASE's own names, by their lower case; each may stand once in a line, whatever its case
KEYS = {
    "lattice": "Lattice",
    "pbc": "pbc",
    "properties": "Properties",
    "stress": "stress",
    "virial": "virial",
}
# Spellings of the three columns that every file has, in lower case, and the types they must have
COLUMNS = {
    **dict.fromkeys(("species", "element", "elements", "symbol", "symbols"), ("species", "S")),
    **dict.fromkeys(("pos", "position", "positions", "coordinates"), ("pos", "R")),
    **dict.fromkeys(("z", "numbers", "atomic_numbers"), ("Z", "I")),
}
# Words of a lattice; a key that has others besides ORDINARY (cell_id, lattice_type) is not one
WORDS = {"lattice", "lattices", "cell", "cells", "unitcell", "box", "boxes", "latt"}
ORDINARY = {
    "unit",
    "vector",
    "vectors",
    "constant",
    "constants",
    "parameter",
    "parameters",
    "lengths",
    "matrix",
    "abc",
}

# Letters of a name that make a lattice of six or nine numbers, which supercell="2 2 2" is not
_HINT = re.compile(r"(?i)cell|latt|box|cryst|basis|^(?:lat|h|h_?mat(?:rix)?)$")

_QUOTED = r'"[^"]*"|\'[^\']*\'|\{[^}]*\}|\[[^\]]*\]'
_KEY = re.compile(r"([A-Za-z_][\w.-]*)\s*=(?!=)")
_KEY_AND_VALUE = re.compile(rf"{_KEY.pattern}\s*(?:{_QUOTED}|\S+)?")
# Keys that ASE refuses unless they have nine numbers: in capitals it lets them pass
_NINE = re.compile(r"(?i)(?<!\S)(?:lattice|stress|virial)(?=\s*=)")
_COUNTS = re.compile(r"(?i)(?<!\S)properties\s*=\s*[\"'{]?([^\s\"'}]+)")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$")
_REMEDY = 'write it as Lattice="ax ay az bx by bz cx cy cz" (Å), or pbc="F F F" where nothing repeats'


def is_xyz(path: str | Path) -> bool:
    """Whether a file, compressed or not, is called like one of (extended) xyz."""
    return bool(re.search(r"\.(ext)?xyz(\.(gz|bz2|xz))?$", str(path).lower()))


def checked_reading(path: str | Path) -> dict[str, Any]:
    """What `ase.io.read` must be told of a file, so that comments are read by `parse_comment`.

    UserError at a number of atoms up to which ASE would count for ever, and at a blank line between frames.
    """
    if not is_xyz(path):
        return {}
    _check_counts(path)
    return {"format": "extxyz", "properties_parser": parse_comment}


def _check_counts(path: str | Path) -> None:
    """All other damage, but for what it does not see, is for ASE to tell."""
    from ase.io.formats import open_with_compression

    broken = OSError, EOFError, zlib.error, lzma.LZMAError
    with suppress(*broken), open_with_compression(str(path), "rb") as file:
        for line in file:
            count = line.strip()
            if count.startswith(b"VEC"):
                continue
            if not count and any(more.strip() for more in file):
                raise UserError(f"{path}: expected a number of atoms, found {BLANK}")
            if not count.isdigit():
                return
            if len(count) > MOST_DIGITS:
                raise UserError(f"{path}: expected a number of atoms, found {count[:20].decode()}")
            deque(islice(file, int(count) + 1), maxlen=0)


def count_of_atoms(line: str) -> int:
    """The first line of a frame. UserError, without file and frame, where it is none."""
    count = line.strip()
    if not count.isdecimal() or len(count) > MOST_DIGITS:
        raise UserError(f"expected a number of atoms, found {_short(count)}")
    return int(count)


def parse_comment(line: str) -> dict[str, Any]:
    """Keys and values of a comment line, for ASE: `Lattice` [3, 3] by columns, `pbc`, `Properties`, the rest.

    UserError, without file and frame: a key twice, a lattice that is not nine numbers or has another name,
    pbc that is not T and F.
    """
    from ase.io.extxyz import key_val_str_to_dict

    found = _KEY.findall(re.sub(_QUOTED, '""', line))
    keys = [key.lower() for key in found]
    twice = [key for key in KEYS if keys.count(key) > 1]
    twice += [key for key in found if found.count(key) > 1 and re.search(r"(?i)energ|stress|virial", key)]
    if twice:  # ASE takes the last
        raise UserError(f"comment: expected {twice[0]} once, found it more than once")
    try:
        parsed = key_val_str_to_dict(_NINE.sub(lambda found: found[0].upper(), line)) if line.strip() else {}
    except Exception as error:  # of ASE and of JSON
        raise UserError(f"comment: expected keys and values, found {_short(line)} ({error})") from error
    info = {KEYS.get(key.lower(), key): value for key, value in parsed.items()}
    for key in ("lattice", "pbc", "properties"):
        if key in keys and KEYS[key] not in info:
            raise UserError(f"comment: {key}: expected a key outside of quotes, found {_short(line)}")
    if "pbc" in info:
        info["pbc"] = _pbc(info["pbc"])
    if "Lattice" in info:
        vectors = info["Lattice"]
        if np.shape(vectors) != (9,) or not _numeric(vectors):
            raise UserError(f"Lattice: expected nine numbers, three vectors, found {_short(vectors)}")
        info["Lattice"] = np.reshape(vectors, (3, 3)).T
    elif ("pbc" not in info or any(info["pbc"])) and (what := _looks_like_a_lattice(line, info)):
        raise UserError(f"comment: {what} looks like a lattice; {_REMEDY}")
    if "Properties" in info:
        info["Properties"] = _properties(str(info["Properties"]))
    for key in [key for key in ("stress", "virial") if key in info]:
        if np.shape(info[key]) == (9,):
            info[key] = np.reshape(info[key], (3, 3)).T
        elif not np.shape(info[key]):
            info[key.upper()] = info.pop(key)  # ASE takes it for an array
    return info


def columns(line: str) -> int:
    """How many columns the atoms' lines have by a comment line."""
    found = _COUNTS.search(line)
    return sum(map(int, re.findall(r":(\d{1,6})(?=:|$)", found[1]))) if found else 4


def names_a_cell(name: str) -> bool:
    """Whether an array of this name is plainly a lattice: cell, Lattice, unit_cell, box_vectors, ..."""
    words = set(re.findall(r"[a-z]+|\d+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()))
    return bool(words & WORDS) and words <= WORDS | ORDINARY


def hints_at_a_cell(name: str, value: Any) -> bool:
    """Whether a value of such a name must be a lattice: nine numbers that span a volume, or six of a cell."""
    numbers = np.ravel(value)
    if not _HINT.search(name) or len(numbers) not in (6, 9) or not np.isfinite(numbers).all():
        return False
    if len(numbers) == 9:
        return abs(np.linalg.det(numbers.reshape(3, 3))) > 1e-3
    return bool((numbers[:3] > 1).all() and (abs(numbers[3:] - 90) <= 70).all())


def _pbc(value: Any) -> list[bool]:
    flags = np.asarray(value)
    legal = flags.dtype.kind in "bi" and flags.shape in {(), (1,), (3,)}
    if not legal or ((flags != 0) & (flags != 1)).any():
        raise UserError(f"pbc: expected T or F in each of three directions, found {_short(value)}")
    return [bool(flag) for flag in np.broadcast_to(flags, 3)]


@lru_cache
def _properties(text: str) -> str:
    fields = text.split(":")
    if len(fields) % 3 or not all(re.fullmatch(r"[1-9]\d{0,5}", count) for count in fields[2::3]):
        raise UserError(f"Properties: expected name:type:columns of each property, found {_short(text)}")
    for k in range(0, len(fields), 3):
        name, kind = COLUMNS.get(fields[k].lower(), ("", ""))
        if kind == fields[k + 1].upper():
            fields[k], fields[k + 1] = name, kind
    if "pos" not in fields[::3]:
        raise UserError(f"Properties: expected pos:R:3 among them, found {_short(text)}")
    return ":".join(fields)


def _looks_like_a_lattice(line: str, info: dict[str, Any]) -> str:
    """What in a comment without `Lattice` gives a periodic cell; empty where nothing does."""
    sizes = {key: np.size(value) for key, value in info.items() if _numeric(value)}
    for key, size in sizes.items():
        if (names_a_cell(key) and size in (1, 3, 6, 9)) or hints_at_a_cell(key, info[key]):
            return key
    for letters in ("abc", "123", "xyz"):
        for stem in ("", "a", "r", "v", "h", "vec", "lattice", "cell", "box", "l"):
            three = [key for key in sizes if re.sub("[_-]", "", key).lower() in {stem + x for x in letters}]
            if len(three) == 3 and (stem or letters == "abc") and all(sizes[key] in (1, 3) for key in three):
                return ", ".join(three)
    return _free_numbers(_KEY_AND_VALUE.sub(" | ", line))


def _free_numbers(text: str) -> str:
    """Numbers in a row that are no key's value and must be a lattice: nine, lengths and angles, lengths."""
    words = re.findall(r"[^\s,;()\[\]{}\"':]+", text)
    named = re.search(r"(?i)lattice|cell|\bbox\b|\bpbc\b|periodic|cryst", text)
    ends = [-1, *(k for k, word in enumerate(words) if not _NUMBER.match(word)), len(words)]
    for start, end in pairwise(ends):
        if end - start - 1 not in (3, 6, 9, 10):
            continue
        values = np.array(words[start + 1 : end], dtype=float)
        if not np.isfinite(values).all():
            continue
        # the number of a step may stand before them
        vectors = len(values) in (9, 10) and abs(np.linalg.det(values[-9:].reshape(3, 3))) > 1e-3
        angles = len(values) == 6 and (values[:3] > 1).all() and (abs(values[3:] - 90) <= 70).all()
        lengths = len(values) == 3 and len(words) == 3 and (values > 2).all()
        if vectors or angles or lengths or (named and len(values) in (3, 6, 9)):
            return _short(" ".join(words[start + 1 : end]))
    return ""


def _numeric(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "iuf" if not isinstance(value, str | dict) else False


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return repr(text if len(text) < 60 else text[:57] + "...")
