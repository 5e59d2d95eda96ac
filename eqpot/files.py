"""Files appear whole or not at all: written under a temporary name in the same folder, then renamed."""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from eqpot.errors import UserError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and goes when it does not.

    UserError naming `path` where the disk is full, the folder missing or writing not permitted.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror or e}") from e
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """An HDF5 file to fill.

    It is built in memory and written in one go, since HDF5 itself does not take a full disk well.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        yield file
    with replacing(path) as temporary:
        temporary.write_bytes(image.getbuffer())


def sha256(path: str | Path) -> str:
    """Hash of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
