"""Run folders, of training and of dynamics: begun in an empty place, taken up again at a checkpoint."""

import errno
import gc
import json
import os
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from eqpot.errors import UserError
from eqpot.files import check_folder, new_hdf5, own_hdf5, remove_stale
from eqpot.schema import Array, Rule

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

LOCK = ".eqpot.lock"
OTHERS = {
    "checkpoint.h5": "`eqpot fit`",
    "restart.h5": "`eqpot md`",
    "learn.json": "`eqpot learn`",
}  # what tells of a run


def check_run(folder: str | Path, names: Sequence[str], overwrite: bool) -> list[str]:
    """Which of a run's files, `names`, there are already.

    UserError, before any work is done, where they may not be replaced or the folder cannot be written.
    """
    check_folder(folder)
    for name, what in OTHERS.items():
        if name not in names and (Path(folder) / name).exists():
            raise UserError(f"{folder}: expected a folder for this run alone, found one of {what} ({name})")
    held = [name for name in names if (Path(folder) / name).exists()]
    if held and not overwrite:
        raise UserError(
            f"{folder}: the folder already holds a run ({held[0]}); give --resume to continue it, "
            "--overwrite to replace it, or another folder with -o"
        )
    return held


def keep_apart(folder: str | Path, names: Sequence[str], *read: Any) -> None:
    """UserError where a new run would replace what it is made from; of `read` only paths are looked at."""
    replaced = {(Path(folder) / name).resolve() for name in names}
    for path in read:
        if isinstance(path, str | Path) and Path(path).resolve() in replaced:
            raise UserError(
                f"{path}: expected a file that the run in {folder} does not replace; give another folder "
                "with -o"
            )


def clear_run(hold: "Hold", names: Sequence[str], overwrite: bool) -> None:
    """Make the folder, hold it, and remove a run that is there; UserError as in `check_run`."""
    try:
        hold.folder.mkdir(parents=True, exist_ok=True)
        hold.take()
        for name in check_run(hold.folder, names, overwrite):
            (hold.folder / name).unlink()
    except OSError as e:
        raise UserError(f"{hold.folder}: cannot be written: {e.strerror}") from e


@contextmanager
def beginning(hold: "Hold", names: Sequence[str]) -> Iterator[None]:
    """The block writes a run's first files; where it fails none is left, and the run can be begun again."""
    try:
        yield
    except BaseException:
        for name in names:
            with suppress(OSError):
                (hold.folder / name).unlink()
        raise


class Hold:
    """A run folder in the hands of one process, or of one run in it: from `with` on until `close`, or until
    nobody has this object any more; a block that fails closes it.

    It is a lock of the kernel's on a file with the process's number, which ends with the process.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._end: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        return self.take()

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        if kind is not None:
            self.close()

    def take(self) -> Self:
        """Hold the folder, if it is there, and clear it of what killed processes left; UserError where
        another holds it."""
        if self._end is not None or fcntl is None or not self.folder.is_dir():
            return self
        try:
            number = _locked(self.folder / LOCK)
        except BlockingIOError:
            gc.collect()  # runs that nobody has any more
            try:
                number = _locked(self.folder / LOCK)
            except BlockingIOError:
                raise UserError(
                    f"{self.folder}: in use by process {_holder(self.folder / LOCK)}; wait until it ends, or "
                    "give another folder with -o"
                ) from None
        except OSError as e:
            raise UserError(f"{self.folder}: cannot be written: {e.strerror}") from e
        self._end = weakref.finalize(self, _unlock, self.folder / LOCK, number, os.getpid())
        remove_stale(self.folder)
        return self

    def close(self) -> None:
        """Let others have it."""
        if self._end is not None:
            self._end()
            self._end = None


def _locked(path: Path) -> int:
    """A descriptor of the locked file. BlockingIOError where another has it."""
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _lock(number)
            if _is_at(number, path):  # and was not removed by who had it
                with suppress(OSError):  # a full disk; the number is only for a message
                    os.ftruncate(number, 0)
                    os.pwrite(number, str(os.getpid()).encode(), 0)
                return number
        except BaseException:
            os.close(number)
            raise
        os.close(number)


def _lock(number: int) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):  # file systems without locks
            raise


def _is_at(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except OSError:
        return False


def _holder(path: Path) -> str:
    try:
        return path.read_text()[:20].strip() or "unknown"
    except (OSError, ValueError):
        return "unknown"


def _unlock(path: Path, number: int, process: int) -> None:
    if os.getpid() == process and _is_at(number, path):  # not in a child that was forked
        with suppress(OSError):
            path.unlink()
    os.close(number)


def write_checkpoint(
    path: Path, kind: str, version: int, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """An HDF5 file of `kind`, one of `eqpot.files.KINDS`, with `content` as JSON; whole or not at all."""
    with new_hdf5(path) as file:
        file.attrs.update(format=kind, version=version, content=json.dumps(content))
        for name, array in arrays.items():
            file[name] = array


def read_checkpoint(
    path: Path,
    kind: str,
    version: int,
    rule: Rule,
    layout: Callable[[dict[str, Any]], Mapping[str, Array]],
    later: Collection[str] = (),
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Content and arrays, where they keep their rules; `layout(content)` are those of the arrays.

    UserError where there is no such file, or a damaged one.
    """
    if not path.exists():
        raise UserError(f"{path}: nothing to resume: no such file")
    with own_hdf5(path, kind, version) as file:
        content = file.json("content", rule, later)
        try:
            wanted = layout(content)
        except UserError as e:  # of the settings, which know no file
            raise UserError(f"{path}: {e}") from e
        return content, file.arrays(wanted)


def check_hash(path: str | Path, found: str, expected: str, checkpoint: Path) -> None:
    """UserError where a file is not the one that the run was made from; hashes are SHA-256, hexadecimal."""
    if found != expected:
        raise UserError(
            f"{path}: expected the file that {checkpoint} was made from, SHA-256 {expected[:12]}…, "
            f"found {found[:12]}…"
        )


class Watch:
    """What looks on while a run goes; this one does nothing."""

    def step_done(self, run: Any, *about: Any) -> None:
        """After a step; of training `about` is the part of the epoch that is done, and the step's losses."""

    def epoch_done(self, run: Any) -> None:
        """After an epoch of training."""
