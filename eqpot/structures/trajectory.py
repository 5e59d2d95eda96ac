"""Trajectories: frames from any file that ASE reads or from a data set, chosen, numbered and timed."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.io.formats import UnknownFileTypeError

from eqpot.errors import UserError
from eqpot.files import is_hdf5, quiet, read_structure
from eqpot.structures.data import read_dataset
from eqpot.structures.neighbours import check_cell
from eqpot.structures.xyz import is_xyz
from eqpot.structures.xyz_frames import read_frames
from eqpot.words import counted

EVERYTHING = slice(None)
# In the info of a frame: which of our commands its energy and forces come from, and of which model.
PREDICTED = "predicted_by"


class NoFrames(UserError):
    """None of the frames that were asked for is there."""


def check_trajectory(path: str | Path) -> None:
    """UserError, before any work is done, where there is no file to read."""
    if not Path(path).is_file():
        found = "a folder" if Path(path).exists() else "no such file"
        raise UserError(f"{path}: expected a trajectory, found {found}")


def read_trajectory(path: str | Path, chosen: slice = EVERYTHING) -> list[Atoms]:
    """The chosen frames of a trajectory in any format of ASE, or of a data set; lengths in Å.

    info holds `frame`, the number in the file from 0, and `time_ps`, the time in ps, where the file has it
    under that name; the rest of info and the calculator are left behind.

    UserError naming file and frame: nothing to read, a damaged frame, no atoms, positions or cell that are
    not finite, periodic cell vectors that depend on each other, nothing chosen.
    """
    path, kept = Path(path), iterate(path)
    if any(end is not None and end < 0 for end in (chosen.start, chosen.stop)):
        frames = list(kept)[chosen]
    else:  # reads no further than asked for
        frames = list(islice(kept, chosen.start, chosen.stop, chosen.step))
    if not frames:
        raise NoFrames(f"{path}: expected frames among those chosen, found none; the file has fewer")
    return frames


def iterate(path: str | Path, labelled: bool = False, grouped: bool = False) -> Iterator[Atoms]:
    """All frames one after another, as in `read_trajectory`; but for data sets they are read as it goes.

    labelled: the calculator stays, with labels where there are some. grouped: `config_type` stays in info.
    """
    path = Path(path)
    check_trajectory(path)
    if is_hdf5(path):
        dataset = read_dataset(path)
        numbered = ((k, dataset.atoms(k)) for k in range(len(dataset)))
    else:
        numbered = _ase_frames(path)
    for k, atoms in numbered:
        yield _checked(path, k, atoms, labelled, grouped)


def read_frame(path: str | Path, index: int = -1) -> Atoms:
    """One frame in any format of ASE, or of a data set; counted from 0, or -1, -2, ... from the end. Å.

    UserError as in `read_trajectory`.
    """
    if index == -1 and not (Path(path).is_file() and is_hdf5(path)):
        return read_structure(path)  # the last one, whose format may let it leave out those before
    try:
        (atoms,) = read_trajectory(path, slice(index, index + 1 or None))
    except NoFrames as e:
        count = len(read_trajectory(path))
        raise UserError(
            f"{path}: --index: expected the number of one of its frames, of which there are {count}, "
            f"found {index}"
        ) from e
    return atoms


def _ase_frames(path: Path) -> Iterator[tuple[int, Atoms]]:
    count, what = 0, "no frame"
    try:
        frames = read_frames(path) if is_xyz(path) else ase.io.iread(path, ":", do_not_split_by_at_sign=True)
        while True:
            with quiet():
                atoms = next(frames, None)
            if atoms is None:
                break
            yield count, atoms
            count += 1
    except UnknownFileTypeError:
        what = "another"
    except UnicodeDecodeError as error:  # of a block of text, ahead of the frame
        raise UserError(f"{path}: expected text in {error.encoding}, found {error.reason}") from error
    except Exception as error:  # ASE's readers raise what they please on a broken file
        what = " ".join(str(error).split())[:200] or type(error).__name__
        if count or is_xyz(path):
            before = f"; the {counted(count, 'frame')} before it can be" if count else ""
            raise UserError(f"{path}: frame {count}: cannot be read ({what}){before}") from error
    if not count:
        hint = f"; try `eqpot data convert {path} DATA.h5`" if path.suffix == ".npz" else ""
        raise UserError(f"{path}: expected a trajectory in a format that ASE reads, found {what}{hint}")


def _checked(path: Path, k: int, atoms: Atoms, labelled: bool, grouped: bool) -> Atoms:
    name = f"{path}: frame {k}"
    if len(atoms) == 0:
        raise UserError(f"{name}: expected a structure, found no atoms")
    if not ((atoms.numbers >= 0) & (atoms.numbers < len(chemical_symbols))).all():  # 0 is ASE's X
        raise UserError(f"{name}, numbers: expected those of elements, found {atoms.numbers.max()}")
    for array, values in (("positions", atoms.positions), ("cell", atoms.cell[:])):
        if not np.isfinite(values).all():
            raise UserError(f"{name}, {array}: expected finite numbers, found NaN or infinity")
    check_cell(atoms.cell[:], atoms.pbc, name)
    kept = ("time_ps", "config_type") if grouped else ("time_ps",)
    atoms.info = {"frame": k} | {key: atoms.info[key] for key in kept if key in atoms.info}
    if not labelled:
        atoms.calc = None
    return atoms


def frame_name(frames: Sequence[Atoms], k: int) -> str:
    """What to call frames[k] in a message: by its number in the file where it came from one."""
    return f"frame {frames[k].info.get('frame', k)}"


def times(frames: Sequence[Atoms], frame_time: float | None = None) -> np.ndarray:
    """Time of each frame, ps [frames]: info["time_ps"], or else its number in the file times frame_time (fs).

    UserError where neither is known, where both are and differ, and where time does not rise.
    """
    counted = None
    if frame_time is not None:
        counted = np.array([a.info.get("frame", k) for k, a in enumerate(frames)]) * frame_time / 1000
    known = sum("time_ps" in atoms.info for atoms in frames)
    if known < len(frames):
        if counted is None:
            raise UserError(
                f"time_ps: expected the time (ps) in the info of all {len(frames)} frames or else "
                f"--frame-time FS, found it in {known or 'none'}"
            )
        return counted
    try:
        found = np.array([atoms.info["time_ps"] for atoms in frames], float)
    except (TypeError, ValueError) as error:
        raise UserError(f"time_ps: expected one number (ps) in each frame ({error})") from error
    steps = np.diff(found)
    if not (steps > 0).all():
        k = int(np.flatnonzero(~(steps > 0))[0])
        raise UserError(
            f"{frame_name(frames, k + 1)}, time_ps: expected rising times, found {found[k]:g} and then "
            f"{found[k + 1]:g}"
        )
    if counted is not None and not np.allclose(steps, np.diff(counted), rtol=1e-3, atol=0):
        raise UserError(
            f"--frame-time: the file has times (time_ps), {1000 * steps[0]:g} fs from the first chosen frame "
            f"to the second, found {1000 * (counted[1] - counted[0]):g} fs"
        )
    return found


def interval(frames: Sequence[Atoms], frame_time: float | None = None) -> float:
    """Time between frames, ps. UserError as in `times`, and where it is not the same throughout."""
    time = times(frames, frame_time)
    steps = np.diff(time)
    mean = float(steps.mean())
    odd = np.flatnonzero(np.abs(steps - mean) > 1e-3 * mean)
    if len(odd):
        k = int(odd[0])
        raise UserError(
            f"{frame_name(frames, k + 1)}: expected frames at equal times apart, found {steps[k]:g} ps here "
            f"and {mean:g} ps on average"
        )
    return mean


def after(frames: Sequence[Atoms], skip: float, frame_time: float | None = None) -> list[Atoms]:
    """Frames from `skip` (ps) after the first one on. UserError as in `times` and where none is left."""
    time = times(frames, frame_time)
    left = [atoms for atoms, t in zip(frames, time - time[0], strict=True) if t >= skip * (1 - 1e-9)]
    if not left:
        raise UserError(f"--skip: expected at most {time[-1] - time[0]:g} ps, found {skip:g}")
    return left
