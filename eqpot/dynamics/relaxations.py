"""Many structures relaxed one after another, into one extxyz file that a later call goes on with.

Each structure is added when it is done. What a kill or a full disk left of the last one is cut off when the
file is taken up again.
"""

import io
import os
from pathlib import Path

import ase.io
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz

from eqpot.errors import UserError
from eqpot.files import check_output, quiet, replacing
from eqpot.structures.trajectory import PREDICTED

NOT_OURS = "expected the result of an earlier `eqpot relax` of several structures"


class Relaxations:
    """The file; `done` holds by name whether each structure in it came to its end.

    settings: what decides how structures are relaxed, the same for all in the file.
    """

    def __init__(self, path: str | Path, settings: str, resume: bool, overwrite: bool):
        """UserError where the file is there and not to be replaced, or not one to go on with."""
        self.path, self._settings = Path(path), settings
        self.done: dict[str, bool] = {}
        if self.path.suffix not in (".extxyz", ".xyz"):
            raise UserError(f"{path}: expected a name that ends in .extxyz, for several structures")
        if resume and self.path.is_file():
            self._take_up()
            return
        check_output(path, overwrite)
        self._write("")

    def add(self, name: str, atoms: Atoms, reached: bool, steps: int) -> None:
        """A structure, whose calculator has been asked, with energy, forces and, where it has one, stress."""
        results = atoms.calc.results
        kept = {key: results[key] for key in ("energy", "forces", "stress") if key in results}
        structure = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        structure.info = {"structure": name, "relaxed": reached, "steps": steps, "settings": self._settings}
        structure.info[PREDICTED] = "eqpot relax"
        structure.calc = SinglePointCalculator(structure, **kept)
        text = io.StringIO()
        write_extxyz(text, structure)
        size = self.path.stat().st_size
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text.getvalue())
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            os.truncate(self.path, size)
            raise UserError(f"{self.path}: cannot be written: {e.strerror}") from e
        self.done[name] = reached

    def _take_up(self) -> None:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        kept = _complete(text)
        cut_off = text[len(kept) :].split("\n")[0].strip()
        try:
            if cut_off and not cut_off.isdigit():
                raise ValueError(cut_off)
            with quiet():
                frames = list(ase.io.iread(io.StringIO(kept), ":", format="extxyz")) if kept else []
            found = [(str(a.info["structure"]), bool(a.info["relaxed"]), a.info["settings"]) for a in frames]
        except Exception as e:  # of ASE, at whatever it may be
            raise UserError(f"{self.path}: --resume: {NOT_OURS}, found something else") from e
        for name, reached, settings in found:
            if settings != self._settings:
                raise UserError(
                    f"{self.path}: --resume: expected what it was begun with ({settings}), "
                    f"found {self._settings}"
                )
            self.done[name] = reached
        if kept != text:
            self._write(kept)

    def _write(self, text: str) -> None:
        with replacing(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _complete(text: str) -> str:
    """The text up to the last frame all of whose lines are there."""
    lines, end = text.splitlines(keepends=True), 0
    while end < len(lines) and lines[end].strip().isdigit():
        after = end + 2 + int(lines[end])
        if after > len(lines) or not lines[after - 1].endswith("\n"):
            break
        end = after
    return "".join(lines[:end])
