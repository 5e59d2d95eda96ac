"""Files: what is written appears whole or not at all, what is read is told apart by its content."""

import hashlib
import io
import json
import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import h5py
import numpy as np
from ase import Atoms

from eqpot import hdf5
from eqpot.errors import UserError
from eqpot.memory import memory
from eqpot.schema import TEXT, Array, Rule, check, parse
from eqpot.structures.xyz import checked_reading

# attribute "format" of what eqpot writes -> what it is, what makes it, what it is for
KINDS = {
    "eqpot-model": ("a model", "eqpot fit", "eqpot info {path}"),
    "eqpot-dataset": ("a data set", "eqpot data convert", "eqpot data info {path}"),
    "eqpot-checkpoint": ("a checkpoint", "eqpot fit", "eqpot fit --resume -o {path.parent}"),
    "eqpot-restart": ("a checkpoint of dynamics", "eqpot md", "eqpot md --resume -o {path.parent}"),
}


TEMPORARY = ".eqpot-"  # and the number of the process that writes
_writing: set[str] = set()  # this process's own


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends well, and goes when it does not.

    It lies beside `path` in a folder of its own, where nobody else can write, of a name not to be foreseen.
    UserError naming `path` where the disk is full, the folder missing or writing not permitted.
    """
    path = Path(path)
    prefix = f"{TEMPORARY}{os.getpid()}-"
    try:
        folder = mkdtemp(prefix=prefix, dir=path.parent)
        _writing.add(folder)
        temporary = Path(folder) / path.name
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        finally:
            # Not TemporaryDirectory: its own removal recurses for ever where the folder has become read-only.
            shutil.rmtree(folder, ignore_errors=True)
            _writing.discard(folder)
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror or e}") from e
    with suppress(OSError):  # not every system syncs folders
        sync(path.parent)


def sync(path: Path) -> None:
    """Have what was written to a file, or into a folder, on the disk before anything else is."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove_stale(folder: Path) -> None:
    """Remove from a folder what killed processes left of `replacing`."""
    for path in folder.glob(f"{TEMPORARY}*"):
        found = re.fullmatch(rf"{re.escape(TEMPORARY)}(\d{{1,9}})-\w+", path.name)
        if found and str(path) not in _writing and not _is_another(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_another(process: int) -> bool:
    """Whether the number is that of a living process, not this one."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return process != os.getpid()


@contextmanager
def new_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """An HDF5 file to fill, which gets a checksum.

    It is built in memory and written in one go, since HDF5 itself does not take a full disk well.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=hdf5.BLOCK) as file:
        yield file
    hdf5.seal(image.getbuffer())
    with replacing(path) as temporary:
        temporary.write_bytes(image.getbuffer())


class OwnFile:
    """What a file of eqpot's holds, given out as far as it keeps the rules; else a UserError names the file.

    hash: SHA-256 of the file, hexadecimal.
    """

    def __init__(self, path: Path, file: h5py.File, data: bytes):
        """UserError, without the file's name, at what is not to be read, see `eqpot.hdf5`."""
        self.path, self.hash = path, hashlib.sha256(data).hexdigest()
        self.attributes = dict(hdf5.attributes(file))
        self._objects = hdf5.objects(file, len(data))

    def attribute(self, key: str, rule: Rule) -> Any:
        """A number or a text."""
        found = {key: self.attributes[key]} if key in self.attributes else {}
        check(found, {key: rule}, f"{self.path}: attributes")
        return found[key]

    def json(self, key: str, rule: Rule, later: Collection[str] = ()) -> Any:
        """An attribute of JSON, in which the keys `later` may be missing."""
        value = parse(self.attribute(key, TEXT), f"{self.path}: {key}")
        check(value, rule, f"{self.path}: {key}", later)
        return value

    def arrays(self, layout: Mapping[str, Array]) -> dict[str, np.ndarray]:
        """Those of the layout that there are; none is read before all have the right shape."""
        lengths, chosen = {}, {}
        for name, array in layout.items():
            where, item = f"{self.path}: {name}", self._objects.get(name)
            if item is None and array.optional:
                continue
            if item is None:
                names = ", ".join(sorted(self._objects)[:20])
                raise UserError(f"{where}: expected an array of that name, found {names}")
            if not isinstance(item, h5py.Dataset):
                raise UserError(f"{where}: cannot be read as an array: it is a group")
            array.check_form(item.dtype, item.shape, lengths, where)
            chosen[name] = item.asstr() if array.dtype is str else item
        values = {name: hdf5.values(item, f"{self.path}: {name}") for name, item in chosen.items()}
        for name, found in values.items():
            layout[name].check_values(found, f"{self.path}: {name}")
        return values


@contextmanager
def own_hdf5(path: str | Path, kind: str, version: int) -> Iterator[OwnFile]:
    """A file of `kind`, one of KINDS, to read from.

    UserError where it is something else, saying what it looks like.
    """
    path = Path(path)
    wanted, maker, _ = KINDS[kind]
    data = _content(path, wanted)
    if not hdf5.is_hdf5(data):
        found = "an empty one" if not data else "something binary" if b"\0" in data[:1000] else "text"
        raise UserError(f"{path}: not an HDF5 file: expected {wanted}, made by `{maker}`, found {found}")
    try:
        file = h5py.File(hdf5.opened(data), "r")
        own = OwnFile(path, file, data)
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
    except Exception as e:  # of any type, as h5py raises them
        what = e if isinstance(e, hdf5.Damaged) else f" ({hdf5.one_line(e)})"
        raise UserError(f"{path}: expected {wanted}, found a damaged or truncated HDF5 file{what}") from e
    with file:
        found, number = (str(own.attributes.get(name)) for name in ("format", "version"))
        if found not in KINDS:
            raise UserError(f"{path}: expected {wanted}, found an HDF5 file that eqpot did not write")
        if found != kind:
            name, _, use = KINDS[found]
            raise UserError(f"{path}: this is {name}, not {wanted}; try `{use.format(path=path)}`")
        if number != str(version):
            raise UserError(f"{path}: expected version {version} of {wanted}, found {number[:20]}")
        yield own


def _content(path: Path, wanted: str) -> bytes:
    if not path.is_file():
        found = "no such file" if not path.exists() else "a folder" if path.is_dir() else "a device"
        if wanted == "a model" and (path / "model.h5").is_file():
            found += f"; try {path / 'model.h5'}"
        raise UserError(f"{path}: expected {wanted} file, found {found}")
    try:
        size = path.stat().st_size
        if size > memory() / 2:
            raise UserError(f"{path}: expected {wanted} that fits into memory, found {size:,} bytes")
        return path.read_bytes()
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror}") from e


@contextmanager
def quiet() -> Iterator[None]:
    """What ASE's readers warn of on a broken file says nothing to a user; that it is broken is told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_structure(path: str | Path) -> Atoms:
    """A structure from any file that ASE reads, the last one where there are several; lengths in Å."""
    if not Path(path).is_file():
        raise UserError(
            f"{path}: expected a structure, found {'a folder' if Path(path).exists() else 'no such file'}"
        )
    import ase.io  # with all of its formats, longer to import than eqpot

    how = checked_reading(path)
    try:
        with quiet():
            atoms = ase.io.read(path, do_not_split_by_at_sign=True, **how)
    except Exception as error:  # ASE's readers raise what they please on a broken file
        what = " ".join(str(error).split())[:200]
        if is_hdf5(path):
            what = "an HDF5 file"
        raise UserError(
            f"{path}: expected a structure in a format that ASE reads, found {what or 'something else'}"
        ) from error
    if len(atoms) == 0:
        raise UserError(f"{path}: expected a structure, found no atoms")
    return atoms


def shown(path: str | Path) -> str:
    """A path for messages: from the present folder, where the file lies below it."""
    here = os.path.relpath(path)
    return str(path) if here.startswith(os.pardir) else here


def named_twice(paths: Sequence[str | Path]) -> list[str]:
    """Warnings about models of a committee that are one file."""
    count = Counter(os.path.realpath(path) for path in paths)
    return [
        f"{shown(path)}: {number} of the {len(paths)} models are this one, which does not deviate from itself"
        for path, number in count.items()
        if number > 1
    ]


def check_there(paths: Iterable[str | Path]) -> None:
    """UserError at what is not to be read because it is not there."""
    for path in paths:
        if not Path(path).exists():
            raise UserError(f"{path}: no such file or folder")


def check_not_read(path: str | Path, read: Iterable[str | Path | None]) -> None:
    """UserError where what is to be written is one of the files that are read, by whatever name."""
    path = Path(path)
    if path.exists() and any(Path(other).exists() and path.samefile(other) for other in read if other):
        raise UserError(f"{path}: expected another file than those that are read")


def check_output(path: str | Path, overwrite: bool = False, read: Iterable[str | Path | None] = ()) -> None:
    """UserError, before any work is done, where a file may not or cannot be written, or is one that is
    `read`."""
    check_not_read(path, read)
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
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of notes in `info` that the format has no room for
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


def is_hdf5(path: str | Path) -> bool:
    """Whether a file looks like HDF5, from its first bytes."""
    try:
        with open(path, "rb") as file:
            return hdf5.is_hdf5(file.read(4096))
    except OSError:
        return False


def sha256(path: str | Path) -> str:
    """Hash of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """As text; numbers are finite, null where there is none."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
