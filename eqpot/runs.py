"""Run folders, of training and of dynamics: begun in an empty place, taken up again at a checkpoint."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eqpot.backend import to_host
from eqpot.errors import UserError
from eqpot.files import check_folder, new_hdf5, own_hdf5


def check_run(folder: str | Path, names: Sequence[str], overwrite: bool) -> list[str]:
    """Which of a run's files, `names`, there are already.

    UserError, before any work is done, where they may not be replaced or the folder cannot be written.
    """
    check_folder(folder)
    held = [name for name in names if (Path(folder) / name).exists()]
    if held and not overwrite:
        raise UserError(
            f"{folder}: the folder already holds a run ({held[0]}); give --resume to continue it, "
            "--overwrite to replace it, or another folder with -o"
        )
    return held


def clear_run(folder: Path, held: Sequence[str]) -> None:
    """Make the folder, and remove what `check_run` found."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in held:
            (folder / name).unlink()
    except OSError as e:
        raise UserError(f"{folder}: cannot be written: {e.strerror}") from e


def write_checkpoint(
    path: Path, kind: str, version: int, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """An HDF5 file of `kind`, one of `eqpot.files.KINDS`, with `content` as JSON; whole or not at all."""
    with new_hdf5(path) as file:
        file.attrs.update(format=kind, version=version, content=json.dumps(content))
        for name, array in arrays.items():
            file[name] = to_host(array)


def read_checkpoint(path: Path, kind: str, version: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Content and arrays. UserError where there is no such file, or a damaged one."""
    if not path.exists():
        raise UserError(f"{path}: nothing to resume: no such file")
    try:
        with own_hdf5(path, kind, version) as file:
            return json.loads(file.attrs["content"]), {name: file[name][()] for name in file}
    except (OSError, KeyError, ValueError) as e:
        raise UserError(f"{path}: expected a whole checkpoint, found one that cannot be read: {e}") from e


def check_hash(path: str | Path, found: str, expected: str, checkpoint: Path) -> None:
    """UserError where a file is not the one that the run was made from; hashes are SHA-256, hexadecimal."""
    if found != expected:
        raise UserError(
            f"{path}: expected the file that {checkpoint} was made from, SHA-256 {expected[:12]}…, "
            f"found {found[:12]}…"
        )
