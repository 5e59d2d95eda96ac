"""Frames of whatever ASE reads."""

import warnings
from typing import Any

import ase.io
from ase import Atoms
from ase.io.extxyz import per_atom_properties
from ase.io.formats import UnknownFileTypeError

from eqpot.data_tools.labels import meaning
from eqpot.data_tools.sources import Found, Frame, check_group
from eqpot.data_tools.text import COMPRESSED, check_xyz, lines
from eqpot.errors import UserError
from eqpot.structures.xyz import DEFAULT_COLUMNS, is_xyz, parse_comment
from eqpot.structures.xyz_frames import read_frames


def read_ase(path: str, keys: dict) -> Found:
    """All frames of a file."""
    notes: list[str] = []
    if is_xyz(path):
        check_xyz(path, notes)
        reader = read_frames(path, _parse_apart)
    else:
        if path.lower().endswith(tuple(COMPRESSED)):
            for _ in lines(path):
                pass  # ends where there is too much of it
        reader = ase.io.iread(path, index=":", do_not_split_by_at_sign=True)
    frames: list[Frame] = []
    columns: dict[str, list] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for atoms in reader:
                there = _beside(atoms)
                for name, value in there.items():
                    column = columns.setdefault(name, [])
                    column += [None] * (len(frames) - len(column)) + [value]
                frames.append(_frame_of_atoms(atoms, there, keys))
        except UnknownFileTypeError as error:
            raise _unrecognised(path, str(error)) from error
        except UserError as error:
            raise UserError(f"{path}: frame {len(frames)}, {error}") from error
        except Exception as error:  # ASE's readers raise what they please on a broken file
            what = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: frame {len(frames)}: ASE cannot read it ({type(error).__name__}: {what})"
            ) from error
    if not frames:
        raise _unrecognised(path, "no frames found")
    for column in columns.values():
        column += [None] * (len(frames) - len(column))
    columns.pop(_SPECIES, None)
    check_group(path, keys, columns)
    return Found(
        path,
        "ASE",
        frames,
        columns,
        hint="; ".join([f"the names there are: {', '.join(columns) or 'none'}", *notes]),
        notes=notes,
    )


def _unrecognised(path: str, why: str) -> UserError:
    return UserError(
        f"{path}: the format is not recognised ({why}); what is read: extxyz and the other formats of ASE, "
        "npz, folders of DeePMD systems, data set files (.h5)"
    )


# Where the parts of a comment line and the species wait, out of ASE's reach: it would take one half of a
# stress for all of it, and CU for Cu
_REST, _SPECIES = "rest of the comment", "names_of_atoms"


def _parse_apart(line: str) -> dict[str, Any]:
    info = parse_comment(line)
    kept = {name: info.pop(name) for name in ("Lattice", "pbc", "Properties") if name in info}
    fields = kept.get("Properties", DEFAULT_COLUMNS).split(":")
    if "Z" not in fields[::3]:
        fields[::3] = [_SPECIES if name == "species" else name for name in fields[::3]]
    return {**kept, "Properties": ":".join(fields), _REST: info}


def _beside(atoms: Atoms) -> dict[str, Any]:
    """Everything in ``atoms`` beside its geometry. ASE moves the standard names to the calculator."""
    info = dict(atoms.info)
    info |= info.pop(_REST, {})
    if "comment" in info:  # of a frame with VEC lines
        info |= {
            name: value
            for name, value in parse_comment("pbc=F " + info.pop("comment")).items()
            if name != "pbc"
        }
    per_atom = {name: value for name, value in atoms.arrays.items() if name not in ("numbers", "positions")}
    for name, value in (atoms.calc.results if atoms.calc else {}).items():
        (per_atom if name in per_atom_properties else info)[name] = value
    # True is a lone word of a comment, such as `energy:`
    there = {name: value for name, value in info.items() if value is not None and value is not True}
    for name, value in per_atom.items():
        found = meaning(name)
        # an energy or a stress of each atom is no frame's
        there[name if not found or found[0] == "forces" else f"{name} (per atom)"] = value
    return there


def _frame_of_atoms(atoms: Atoms, there: dict[str, Any], keys: dict) -> Frame:
    group = there.get(keys.get("group", "config_type"), "")
    numbers = there.get(_SPECIES, atoms.numbers)
    return Frame(numbers, atoms.positions, atoms.cell.array, atoms.pbc, str(group))
