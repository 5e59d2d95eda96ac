"""Text files of structures, read line by line with limits, and checked before ASE reads them."""

import bz2
import gzip
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from eqpot.data_tools.arrays import check_frames, size_limit
from eqpot.errors import UserError
from eqpot.structures.xyz import columns

COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
MAX_LINE = 1 << 24  # characters; a longer line is of no structure
MAX_RATIO, MIN_LIMIT = 100, 1 << 28  # compressed text may be so many times as long, or of so many characters


def lines(path: str) -> Iterator[tuple[int, str]]:
    """Lines of a text file, compressed or not, and their numbers from 1. UserError at too much of it."""
    limit, size = size_limit(), 0
    if Path(path).suffix.lower() in COMPRESSED:
        limit = min(limit, max(MIN_LIMIT, MAX_RATIO * os.path.getsize(path)))
    try:
        with COMPRESSED.get(Path(path).suffix.lower(), open)(path, "rt", errors="replace") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), ""), start=1):
                size += len(line)
                if len(line) == MAX_LINE:
                    raise UserError(f"{path}: line {number}: expected fewer than {MAX_LINE} characters")
                if size > limit:
                    raise UserError(f"{path}: expected at most {limit / 1e9:.3g} GB of text, found more")
                yield number, line
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def check_xyz(path: str, notes: list[str]) -> None:
    """UserError where frames do not follow one another; a note where they have columns without a name.

    ASE ends in silence at a blank line, whatever follows, and cannot say which frame has the wrong length.
    """
    unnamed = 0
    for frame, (comment, row, vectors) in enumerate(_xyz_frames(path)):
        if vectors:  # ASE then reads nothing of the comment
            if re.search(r"(?i)\b(lattice|properties)\s*=", comment):
                raise UserError(
                    f"{path}: frame {frame}: expected VEC lines or Lattice and Properties, found both"
                )
            continue
        unnamed += len(row.split()) > columns(comment)
        if not frame % 10000:
            check_frames(path, frame, 3000)
    if unnamed:
        notes.append(f"columns that Properties does not name are not used, in {unnamed} frames")


def _xyz_frames(path: str) -> Iterator[tuple[str, str, bool]]:
    """Comment, first line of atoms, and whether VEC lines follow, of each frame."""
    text = lines(path)
    frame = 0
    number, line = next(text, (1, ""))
    while line:
        if not line.strip():
            rest = next((number for number, line in text if line.strip()), None)
            if rest:
                raise UserError(f"{path}: expected nothing after the blank line {number}, found line {rest}")
            return
        atoms = _count_of_atoms(f"{path}: frame {frame}, line {number}", line)
        comment, row = (next(text, (0, ""))[1] for _ in range(2))
        found = bool(row) + sum(1 for _ in islice(text, atoms - 1))
        if found < atoms:
            raise UserError(f"{path}: frame {frame}: expected {atoms} lines of atoms, found {found}")
        vectors = False
        number, line = next(text, (0, ""))
        while line.lstrip().startswith("VEC"):
            vectors = True
            if len(line.split()) != 4:
                raise UserError(
                    f"{path}: frame {frame}, line {number}: expected three numbers, found {short(line)}"
                )
            number, line = next(text, (0, ""))
        yield comment, row, vectors
        frame += 1


def _count_of_atoms(place: str, line: str) -> int:
    try:
        atoms = int(line)
    except ValueError:
        atoms = 0
    if not 0 < atoms < 10**12:
        raise UserError(f"{place}: expected a number of atoms, found {short(line.strip())}")
    return atoms


def short(value) -> str:
    """A value as it is in Python, in at most 60 characters of one line."""
    text = " ".join(repr(value).split())
    return text if len(text) < 60 else text[:57] + "..."
