"""Errors against the number of training frames: a fit for each number, validated on the same frames.

    frames.h5, frames_valid.h5      what all fits draw from, and what they are validated on
    25, 50, 100, ...                their run folders, by the number of frames
    learning_curve.csv, .png        the errors

Frames are drawn by the seed, so that fewer are a part of more.
"""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.files import replacing
from eqpot.runs import Watch
from eqpot.structures.data import Dataset, repeated, write_dataset
from eqpot.training.beginning import begin
from eqpot.training.checkpoint import CHECKPOINT, checkpoint_of

FRAMES, VALID = "frames.h5", "frames_valid.h5"
TABLE, PICTURE = "learning_curve.csv", "learning_curve.png"
COLUMNS = ("forces_rmse", "energy_per_atom_rmse", "stress_rmse")


def begin_all(
    config: Config,
    data: str | Path | Dataset,
    folder: Path,
    valid: str | Path | Dataset | None = None,
    sizes: Sequence[int] = (),
    command: str = "",
    device: str = "cpu",
) -> list[int]:
    """Make `folder`, and in it the beginning of a fit with each number of frames; returns these numbers.

    sizes: none: an eighth, a fourth, a half and all of the frames. UserError where the folder is there, or
    there are too few frames.
    """
    from eqpot.training.trainer import Trainer

    if folder.exists():
        raise UserError(f"{folder}: exists already; give --resume to go on there, or another folder with -o")
    most = {"train": {"n_train": max(sizes, default=0)}}
    begun = begin(config.replace(most), data, valid)
    count, sources = len(begun.sources.train), begun.sources
    sizes = sorted(set(sizes or (max(1, count // part) for part in (8, 4, 2, 1))))
    if len(sizes) < 2:
        raise UserError(f"{begun.train.path}: expected two numbers of frames at least, found {sizes[0]}")
    pool, others = begun.train, begun.valid.subset(sources.valid)
    if not sources.valid_data:
        pool = pool.subset(np.flatnonzero(~repeated(others, pool)))
    try:
        folder.mkdir(parents=True)
    except OSError as e:
        raise UserError(f"{folder}: cannot be made a folder: {e.strerror}") from e
    try:
        write_dataset(folder / FRAMES, pool)
        write_dataset(folder / VALID, others)
        for size in sizes:
            own = config.replace({"train": {"n_train": size, "n_valid": 0}})
            files = folder / FRAMES, folder / str(size), folder / VALID
            Trainer.start(own, *files, command=command, device=device).hold.close()
        if config.train.max_time:  # compiling is not to take time from the first fit
            short = {"n_train": sizes[0], "n_valid": 1, "max_epochs": 1, "max_time": ""}
            with TemporaryDirectory() as scratch:
                files = folder / FRAMES, scratch, folder / VALID
                Trainer.start(config.replace({"train": short}), *files, device=device).run()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return sizes


def begun_in(folder: Path) -> list[int]:
    """The numbers of frames whose fits were begun in a folder."""
    found = [path.parent.name for path in folder.glob(f"*/{CHECKPOINT}")]
    sizes = sorted(int(name) for name in found if name.isascii() and name.isdigit())
    if len(sizes) < 2:
        raise UserError(
            f"{folder}: expected a folder of `eqpot learning-curve`, found {len(sizes)} fits in it"
        )
    return sizes


def run(folder: Path, size: int, watch: Watch | None = None, device: str = "cpu") -> dict[str, float | None]:
    """Errors of the fit with that many frames, which goes on where it is not over."""
    from eqpot.training.trainer import Trainer

    path = folder / str(size)
    trainer = Trainer.resume(Config.from_dict(checkpoint_of(path)[0]["config"]), path, device=device)
    trainer.run(watch)
    trainer.write_curve()
    report = trainer.report()
    return {key: report[key] for key in COLUMNS} | {
        "epochs": trainer.state.epoch,
        "seconds": trainer.state.seconds,
    }


def write(folder: Path, rows: dict[int, dict[str, float | None]]) -> None:
    """learning_curve.csv, in eV and Å, and .png."""
    from eqpot.plots import by_frames

    with replacing(folder / TABLE) as temporary, open(temporary, "w", newline="") as file:
        table, columns = csv.writer(file), (*COLUMNS, "epochs")  # not seconds: the same fits, the same file
        table.writerow(["frames", *columns])
        table.writerows([size, *(row[key] for key in columns)] for size, row in rows.items())
    by_frames(rows, folder / PICTURE)
