"""Files: what is written appears whole or not at all, what is read is told apart by its content."""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
from ase import Atoms

from eqpot.errors import UserError
from eqpot.xyz import reading

# attribute "format" of what eqpot writes -> what it is, what makes it, what it is for
KINDS = {
    "eqpot-model": ("a model", "eqpot fit", "eqpot info {path}"),
    "eqpot-dataset": ("a data set", "eqpot data convert", "eqpot data info {path}"),
    "eqpot-checkpoint": ("a checkpoint", "eqpot fit", "eqpot fit --resume -o {path.parent}"),
    "eqpot-restart": ("a checkpoint of dynamics", "eqpot md", "eqpot md --resume -o {path.parent}"),
}


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


@contextmanager
def own_hdf5(path: str | Path, kind: str, version: int) -> Iterator[h5py.File]:
    """A file of `kind`, one of KINDS, to read from.

    UserError where it is something else, saying what it looks like.
    """
    path = Path(path)
    wanted, maker, _ = KINDS[kind]
    if not path.is_file():
        raise UserError(
            f"{path}: expected {wanted} file, found {'a folder' if path.exists() else 'no such file'}"
        )
    try:
        with open(path, "rb") as start:
            head = start.read(1000)
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror}") from e
    if not h5py.is_hdf5(path):
        found = "an empty one" if not head else "something binary" if b"\0" in head else "text"
        raise UserError(f"{path}: not an HDF5 file: expected {wanted}, made by `{maker}`, found {found}")
    try:
        file = h5py.File(path, "r")
    except OSError as e:
        raise UserError(f"{path}: expected {wanted}, found a damaged or truncated HDF5 file ({e})") from e
    with file:
        try:
            found, number = (str(file.attrs.get(name)) for name in ("format", "version"))
        except (OSError, RuntimeError, ValueError) as e:
            raise UserError(f"{path}: expected {wanted}, found damaged attributes ({e})") from e
        if found not in KINDS:
            raise UserError(f"{path}: expected {wanted}, found an HDF5 file that eqpot did not write")
        if found != kind:
            name, _, use = KINDS[found]
            raise UserError(f"{path}: this is {name}, not {wanted}; try `{use.format(path=path)}`")
        if number != str(version):
            raise UserError(f"{path}: expected version {version} of {wanted}, found {number}")
        yield file


def read_structure(path: str | Path) -> Atoms:
    """A structure from any file that ASE reads, the last one where there are several; lengths in Å."""
    if not Path(path).is_file():
        raise UserError(
            f"{path}: expected a structure, found {'a folder' if Path(path).exists() else 'no such file'}"
        )
    import ase.io  # with all of its formats, longer to import than eqpot

    try:
        atoms = ase.io.read(path, do_not_split_by_at_sign=True, **reading(path))
    except Exception as error:  # ASE's readers raise what they please on a broken file
        what = " ".join(str(error).split())[:200]
        if h5py.is_hdf5(path):
            what = "an HDF5 file"
        raise UserError(
            f"{path}: expected a structure in a format that ASE reads, found {what or 'something else'}"
        ) from error
    if len(atoms) == 0:
        raise UserError(f"{path}: expected a structure, found no atoms")
    return atoms


def check_output(path: str | Path, overwrite: bool = False) -> None:
    """UserError, before any work is done, where a file may not or cannot be written."""
    path = Path(path)
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "a device"
        raise UserError(f"{path}: expected the name of a file to write, found {found}")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists already; give --overwrite to replace it")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist")
    _check_permission(path, path.parent)


def check_structure(path: str | Path, overwrite: bool = False) -> None:
    """UserError, before any work is done, where a structure may not or cannot be written."""
    check_output(path, overwrite)
    _structure_format(path)


def write_structure(path: str | Path, atoms: Atoms) -> None:
    """In the format that ASE knows by the file's name, with energy, forces and stress where it takes them."""
    import ase.io

    form = _structure_format(path)
    with replacing(path) as temporary:
        try:
            ase.io.write(temporary, atoms, format=form)
        except OSError:
            raise
        except Exception as error:  # ASE's writers raise what they please on atoms that they cannot take
            raise UserError(f"{path}: cannot be written as {form}: {error}") from error


def _structure_format(path: str | Path) -> str:
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    try:
        form = filetype(str(path), read=False)
    except UnknownFileTypeError:
        form = ""
    if form not in ioformats:
        raise UserError(f"{path}: expected a name that tells the format, such as relaxed.extxyz")
    if not ioformats[form].can_write:
        raise UserError(f"{path}: expected a format that ASE writes, found {form}")
    return form


def check_folder(path: str | Path, names: Iterable[str] = (), overwrite: bool = False) -> None:
    """UserError, before any work is done, where files could not be written to a folder, made if need be.

    names: of files; those that are there may be replaced with `overwrite` only.
    """
    if not str(path):
        raise UserError("expected the name of a folder to write to, found an empty one")
    path = Path(path)
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir():
        found = "it is not a folder" if there == path else f"{there} is not a folder"
        raise UserError(f"{path}: cannot be written: {found}")
    _check_permission(path, there)
    for name in names:
        if (path / name).exists():
            check_output(path / name, overwrite)


def _check_permission(path: Path, folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        where = "" if folder == path else f"{folder}: "
        raise UserError(f"{path}: cannot be written: {where}Permission denied")


def sha256(path: str | Path) -> str:
    """Hash of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
