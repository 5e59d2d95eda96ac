"""Arrays of npz and npy files: no pickle is read, and nothing larger than its file or the memory allows."""

import math
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from eqpot.errors import UserError
from eqpot.memory import free_memory

RAGGED = (
    "an object array, which is a pickle, and that could run any code; write frames of different sizes as "
    "extxyz (ase.io.write('frames.extxyz', frames)), or as one npz for each number of atoms"
)


def size_limit() -> int:
    """Bytes that a source may hold: a quarter of the free memory, since it is held in a few forms at once."""
    return int(free_memory() / 4)


def check_size(name: str, size: int) -> None:
    """UserError where so many bytes (uncompressed) are more than `size_limit`."""
    limit = size_limit()
    if size > limit:
        raise UserError(
            f"{name}: expected at most {limit / 1e9:.3g} GB, a quarter of the free memory, "
            f"found {size / 1e9:.3g} GB"
        )


def check_frames(name: str, frames: int, each: int = 1000) -> None:
    """UserError where so many frames, of that many bytes as objects of Python, are more than `size_limit`."""
    check_size(f"{name}: {frames} frames", each * frames)


def arrays_of_npz(path: str) -> dict[str, np.ndarray]:
    """All arrays of an npz file by name. UserError: damaged, too large, object arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            check_size(path, sum(member.file_size for member in members))
            arrays = {}
            for member in members:
                # the others need as much memory as the file cares to say
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UserError(
                        f"{path}: {member.filename}: expected the compression of NumPy, found another"
                    )
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise UserError(f"{path}: {name}: expected one array of that name, found two")
                with archive.open(member) as file:
                    arrays[name] = _read_array(file, member.file_size, f"{path}: {name}")
    except UserError:
        raise
    except Exception as error:  # damage surfaces as one of many types, from zip or header
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as npz ({type(error).__name__}: {what})") from error
    return arrays


def read_npy(path: Path) -> np.ndarray:
    """The array of an npy file. UserError: absent, no regular file, damaged, too large, an object array."""
    if not path.is_file():
        raise UserError(
            f"{path}: {'expected a file, found another thing' if path.exists() else 'no such file'}"
        )
    size = path.stat().st_size
    check_size(str(path), size)
    try:
        with open(path, "rb") as file:
            return _read_array(file, size, str(path))
    except UserError:
        raise
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as npy ({what})") from error


def read_text(path: Path) -> str:
    """A small text file. UserError: absent, no regular file, too large."""
    if not path.is_file():
        raise UserError(
            f"{path}: {'expected a file, found another thing' if path.exists() else 'no such file'}"
        )
    check_size(str(path), 8 * path.stat().st_size)  # as words and numbers
    return path.read_text(errors="replace")


def _read_array(file: BinaryIO, size: int, name: str) -> np.ndarray:
    """One array in NumPy's format from a file of ``size`` bytes."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise UserError(f"{name}: expected version 1 or 2 of the npy format, found {version}")
    shape, fortran_order, dtype = read_header(file)
    if dtype.hasobject:
        raise UserError(f"{name}: expected numbers, found {RAGGED}")
    wanted, left = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or wanted != left:
        raise UserError(f"{name}: expected the bytes of {dtype} of shape {str(shape)[:60]}, found {left}")
    data = np.frombuffer(file.read(wanted), dtype=dtype, count=math.prod(shape))
    return data.reshape(shape, order="F" if fortran_order else "C")
