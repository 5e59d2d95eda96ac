"""What a run's files say of its rounds: labels, tests, a table of all, its pictures."""

from pathlib import Path
from typing import Any

from ase import Atoms

from eqpot.learning import folder as files
from eqpot.learning import reference
from eqpot.learning.calibration import Measured, latest
from eqpot.learning.frames import identity
from eqpot.structures.data import Dataset


def label_path(folder: Path, atoms: Atoms) -> Path:
    """Where the labels of a frame are, or will be."""
    return folder / files.LABELS / f"{identity(atoms)}.json"


def labels(folder: Path, chosen: Dataset) -> list[dict[str, Any] | None]:
    """Of each frame; None where it is not computed yet."""
    found = []
    for k in range(len(chosen)):
        path = label_path(folder, chosen.atoms(k))
        found.append(reference.read_labels(path, chosen.sizes[k]) if path.exists() else None)
    return found


def tests(folder: Path, number: int) -> list[Measured]:
    """Of rounds 1, 2, ..., `number`, as far as they went."""
    paths = [files.round_folder(folder, k) / files.TESTED for k in range(1, number + 1)]
    return [Measured.read(path) for path in paths if path.exists()]


def tested(folder: Path, number: int) -> Measured:
    """By which frames errors and deviations are known after round `number`: those held out at the end, or
    else those of the last rounds."""
    path = files.final_folder(folder, number) / files.TESTED
    held_out = Measured.read(path) if path.exists() else Measured.joined([])
    return held_out if len(held_out) > 1 else latest(tests(folder, number))


def rows(folder: Path, number: int) -> list[dict[str, Any]]:
    """Of the log, as far as frames were computed; see `folder.COLUMNS`."""
    found, frames, failed = [], 0, 0
    for k, place in files.places(folder, number, final=True):
        path = place / files.TESTED
        chosen, met = files.read_chosen(place)
        known = labels(folder, chosen)
        if None in known:
            break
        failed += sum("failed" in label for label in known)
        frames += len(known)
        name = files.FINAL if place.name == files.FINAL else k
        row = {"round": name, "frames": frames, "failed": failed, **met}
        if path.exists():
            test = Measured.read(path)
            row |= {
                "tested": len(test),
                "forces_rmse": test.rms("error"),
                "deviation_rms": test.rms("deviation"),
                "energy_per_atom_rmse": test.energy_rms,
            }
        found.append(row)
    return found


def write(folder: Path, number: int, target: float) -> None:
    """log.csv and the pictures; target: eV/Å."""
    from eqpot.plots import calibration, rounds

    table, test = rows(folder, number), tested(folder, number)
    files.write_log(folder, table)
    if len(test):
        rounds(table, target, folder / files.PICTURE)
        calibration(test.deviation * test.factor, test.error, folder / files.CALIBRATION)
