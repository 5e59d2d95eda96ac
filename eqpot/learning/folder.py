"""The files of a run, each whole or not at all; a stage is over when the file that it ends with is there.

learn.json, clock.json      settings, and what the run began with; seconds of work, of a round, of a fit
structures.traj             the structures
given.h5, given_1.h5 ...    what --from gave: a data set, models
data.h5                     all frames computed; group: the round, and the reason that each was chosen for
model_1.h5 ...              the committee
log.csv, log.png            a row for each round and final fit, see COLUMNS, and its picture
calibration.png             predicted deviation against true error
labels/                     what was computed, by frame
round_K/chosen.h5           frames to be computed, group: the reason; attributes: what the dynamics met
round_K/tested.csv          the random ones among them, before they were trained on
round_K/starts.traj         where the next runs begin
round_K/model_1.h5 ...      the committee after the round
round_K/final/              where learning ended after this round: the committee after a last, longer fit;
                            chosen.h5, tested.csv: frames of its own dynamics, which it was not fitted to
worker_K/                   where a process of the reference computes
"""

import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eqpot.errors import UserError
from eqpot.files import check_folder, replacing, write_json
from eqpot.learning.settings import LearnConfig
from eqpot.schema import TABLE, TEXT, Rule, check, integer, number, parse
from eqpot.structures.data import Dataset, read_dataset

RUN, CLOCK = "learn.json", "clock.json"
DATA, GIVEN, STRUCTURES, LABELS = "data.h5", "given.h5", "structures.traj", "labels"
LOG, PICTURE, CALIBRATION = "log.csv", "log.png", "calibration.png"
CHOSEN, TESTED, STARTS = "chosen.h5", "tested.csv", "starts.traj"
FINAL = "final"
VERSION = 1
CONTENT: Rule = {
    "version": ("version 1", lambda value: value == VERSION),
    "config": TABLE,
    "fit": TABLE,
    "parents": integer(),
    "command": TEXT,
}
MET: Rule = {"met": integer(), "beyond": integer(), "threshold": number(above=0), "factor": number(above=0)}
COLUMNS = (
    "round",  # or "final": held out after it
    "frames",  # computed so far
    "failed",  # so far
    "met",  # frames that the dynamics led through
    "beyond",  # of these beyond the threshold
    "threshold",  # of the deviation of an atom's force, scaled, eV/Å
    "tested",  # frames drawn at random, of which:
    "forces_rmse",  # eV/Å
    "deviation_rms",  # not scaled, eV/Å
    "energy_per_atom_rmse",  # eV
    "factor",  # by which deviations are scaled, as the rounds before found it
)


@dataclass(frozen=True)
class Stored:
    """What learn.json holds: settings, tables of a fit's settings, how many models were given."""

    config: LearnConfig
    fit: Mapping[str, Any]
    parents: int
    command: str

    def write(self, folder: Path) -> None:
        """Into the run folder."""
        content = {"version": VERSION, **vars(self), "config": self.config.to_dict(), "fit": dict(self.fit)}
        write_json(folder / RUN, content)

    @classmethod
    def read(cls, folder: Path) -> "Stored":
        """UserError where there is no run, or a damaged one."""
        path = folder / RUN
        if not path.is_file():
            raise UserError(f"{path}: nothing to resume: no such file")
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"{path}: cannot be read: {e}") from e
        found = parse(text, str(path))
        check(found, CONTENT, str(path))
        try:
            config = LearnConfig.from_file(found["config"])
        except UserError as e:
            raise UserError(f"{path}: {e}") from e
        return cls(config, found["fit"], found["parents"], found["command"])


def check_new(folder: Path) -> None:
    """UserError where a run may not begin."""
    check_folder(folder)
    if (folder / RUN).exists():
        raise UserError(
            f"{folder}: the folder already holds a run; give --resume to continue it, or another "
            "folder with -o"
        )
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: expected a new or an empty folder, found files in it")


@contextmanager
def new(folder: Path) -> Iterator[None]:
    """The folder is made; where the block fails it is gone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as e:
        raise UserError(f"{folder}: cannot be written: {e.strerror or e}") from e
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def round_folder(folder: Path, number: int) -> Path:
    """Of a round."""
    return folder / f"round_{number}"


def remove_dynamics(folder: Path) -> None:
    """Of a round or final fit, once frames are chosen from it."""
    for path in folder.glob("md_*"):
        shutil.rmtree(path, ignore_errors=True)


def final_folder(folder: Path, number: int) -> Path:
    """Of the final fit, where that came after a round."""
    return round_folder(folder, number) / FINAL


def places(folder: Path, number: int, final: bool) -> list[tuple[int, Path]]:
    """Folders with chosen frames, each with its round: rounds up to `number`, and what was held out between
    them, where learning had ended and went on; final: and after the last."""
    found = []
    for k in range(number + 1):
        found.append((k, round_folder(folder, k)))
        if (k < number or final) and (final_folder(folder, k) / CHOSEN).exists():
            found.append((k, final_folder(folder, k)))
    return found


def read_chosen(place: Path) -> tuple[Dataset, dict[str, Any]]:
    """Frames of a round or held out, without labels, and what the dynamics before met: MET, of round 0
    nothing."""
    chosen = read_dataset(place / CHOSEN)
    met = {}
    if place != round_folder(place.parent, 0):
        met = {name: chosen.attrs[name] for name in MET if name in chosen.attrs}
        check(met, MET, f"{place / CHOSEN}: attributes")
    return replace(chosen, attrs={}), met


def copy(source: Path, target: Path) -> None:
    """The whole file or none of it."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def read_clock(folder: Path) -> dict[str, float]:
    """seconds: that earlier processes worked on the run, to the end of their last stage; round, fit: that the
    shortest of these took. Empty where none ended."""
    path = folder / CLOCK
    if not path.exists():
        return {}
    found = parse(path.read_text(), str(path))
    stages = {"round": number(low=0), "fit": number(low=0)}
    check(found, {"seconds": number(low=0), **stages}, str(path), later=stages)
    return found


def write_log(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """log.csv; empty cells where there is nothing."""
    with replacing(folder / LOG) as temporary, open(temporary, "w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
