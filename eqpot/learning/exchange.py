"""Frames that are computed elsewhere: written as extxyz, and taken back with labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.extxyz import write_extxyz

from eqpot.errors import UserError
from eqpot.files import check_folder, replacing
from eqpot.learning.frames import unlabelled
from eqpot.structures.data import Dataset, concatenate, first_alike
from eqpot.words import counted


class Exported(Exception):
    """Frames wait to be computed elsewhere: `path` has `count` of them."""

    def __init__(self, path: str, count: int):
        super().__init__(path)
        self.path, self.count = path, count


def export(path: Path, frames: Sequence[Atoms], reasons: Sequence[str]) -> None:
    """As extxyz; config_type: the reason."""
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    copies = [atoms.copy() for atoms in frames]
    for atoms, reason in zip(copies, reasons, strict=True):
        atoms.info["config_type"] = reason
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        write_extxyz(file, copies)


def imported_labels(imported: Dataset, frames: Sequence[Atoms], exported: str) -> list[dict[str, Any]]:
    """Labels as of `reference.compute` of each frame; one that is not among the imported ones has failed.

    exported: the file that these frames were written to. Frames are the same where all coordinates are to
    1e-4 Å. UserError where none is there.
    """
    both = concatenate([imported, unlabelled(frames, [""] * len(frames))])
    first = first_alike(both)[len(imported) :]
    known = imported.known("energy") & imported.known("forces")
    stress = imported.known("stress")
    labels = []
    for place in first.tolist():
        if place >= len(imported) or not known[place]:
            labels.append({"failed": f"{imported.path}: not there with energy and forces"})
            continue
        rows = slice(imported.atom_ptr[place], imported.atom_ptr[place + 1])
        labels.append(
            {
                "energy": float(imported.energy[place]),
                "forces": imported.forces[rows].tolist(),
                "stress": imported.stress[place].tolist() if stress[place] else None,
                "seconds": 0.0,
            }
        )
    if all("failed" in label for label in labels):
        raise UserError(
            f"{imported.path}: expected labels of the {counted(len(frames), 'frame')} of {exported}, "
            "found none of these frames"
        )
    return labels
