"""Bring published data into the data set format: anything ASE reads, npz files, DeePMD folders.

Every reader turns its source into frames in the source's own units and everything that was found beside them,
by its name; one path from there chooses the labels, assembles the frames, converts to eV and Å and checks. It
refuses to guess a label that is missing, and to choose between two.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eqpot.data_tools.doubts import GPA, doubts, other_units, predicted
from eqpot.data_tools.info import duplicates
from eqpot.data_tools.labels import QUANTITIES, choose
from eqpot.data_tools.read_ase import read_ase
from eqpot.data_tools.read_deepmd import read_deepmd
from eqpot.data_tools.read_npz import read_npz
from eqpot.data_tools.sources import SPELLINGS, Found, Source
from eqpot.data_tools.text import short
from eqpot.data_tools.values import as_floats, as_numbers, as_tensor
from eqpot.errors import UserError
from eqpot.files import check_output, check_there
from eqpot.structures.data import (
    GEOMETRY,
    LABELS,
    Dataset,
    concatenate,
    read_dataset,
    validate,
    write_dataset,
)
from eqpot.units import ENERGY_UNITS, LENGTH_UNITS, force_unit, stress_unit, unit


@dataclass
class Conversion:
    """The result of ``gather``: all frames, their sources, and notes on all of them together."""

    dataset: Dataset
    sources: list[Source]
    notes: list[str]


@dataclass
class _Units:
    """What one of each is in eV and Å."""

    energy: float
    length: float
    forces: float
    stress: float


def convert(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    overwrite: bool = False,
    **how: Any,
) -> Conversion:
    """Convert ``sources`` into the data set file ``out``; ``how`` as in ``gather``."""
    sources = _several(sources)
    check_there(sources)
    if Path(out).suffix not in (".h5", ".hdf5") and not Path(out).is_dir():
        raise UserError(f"{out}: expected a name that ends in .h5 for what is written")
    check_output(out, overwrite, sources)
    result = gather(sources, **how)
    write_dataset(out, result.dataset)
    return result


def gather(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    force_unit: str | None = None,
    stress_unit: str | None = None,
    keys: Mapping[str, str] | None = None,
    type_map: Sequence[str] | None = None,
    allow_missing: Collection[str] = (),
    attrs: Mapping[str, str] | None = None,
) -> Conversion:
    """All frames of ``sources``, in that order, in eV and Å and checked.

    energy_unit, length_unit: units of the sources (ENERGY_UNITS, LENGTH_UNITS). None means eV and Å, except
    for the MD17 family of npz, which is in kcal/mol. force_unit: such as Hartree/Bohr, default energy/length.
    stress_unit: such as GPa or eV/Ang^3, default energy/length^3. A virial is in the unit of energy.
    keys: array -> its name in the sources, for the arrays of SPELLINGS, "group" (default "config_type") and
    "weight" (default "config_weight"), which is 1 of frames that have none.
    Labels that are not named are found by their spelling, see labels.choose.
    type_map: element of each DeePMD type, where a folder has no type_map.raw.
    allow_missing: labels (energy, forces, stress) that frames may lack; they become NaN.
    attrs: free text for the file, such as level_of_theory.

    Stress is positive under tension; a virial is taken as -stress * volume. Where both are there and neither
    is in ``keys``, they must agree. Six components are in the order xx, yy, zz, yz, xz, xy. Energy and forces
    are required of every frame; stress of all frames periodic in three directions, or of none. A data set
    file among the sources is taken as it is. Raises UserError naming source, frame and array.
    """
    given = {"energy": energy_unit, "length": length_unit, "force": force_unit, "stress": stress_unit}
    try:
        return _gather(_several(sources), given, dict(keys or {}), type_map, allow_missing, dict(attrs or {}))
    except MemoryError as error:
        raise UserError("convert: the sources need more memory than there is") from error


def _several(sources: str | os.PathLike | Sequence[str | os.PathLike]) -> Sequence[str | os.PathLike]:
    return [sources] if isinstance(sources, str | os.PathLike) else sources


def _gather(sources, given, keys, type_map, allow_missing, attrs) -> Conversion:
    for name in keys:
        if name not in (*SPELLINGS, "group", "weight"):
            raise UserError(f"keys: expected one of {', '.join(SPELLINGS)}, group, weight; found {name}")
    _check_keys_have_sources(keys, [os.fspath(path) for path in sources])
    for name in allow_missing:
        if name not in LABELS:
            raise UserError(f"allow_missing: expected one of {', '.join(LABELS)}; found {name}")
    for what, table in (("energy", ENERGY_UNITS), ("length", LENGTH_UNITS)):
        given[what] = given[what] and unit(given[what], table, what)
    parts: list[Source] = []
    for path in sources:
        for found in _read(os.fspath(path), keys, type_map):
            if isinstance(found, Source):
                parts.append(found)
            else:
                parts.append(_finish(found, given, keys, allow_missing))
    if not parts:
        raise UserError("convert: expected at least one source, found none")
    _check_stress(parts, allow_missing)
    names = [part.name for part in parts]
    about = {"source": ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")}
    theories = [part.dataset.attrs.get("level_of_theory") for part in parts]
    theories = {None if theory is None else str(theory) for theory in theories}
    if len(theories) == 1 and None not in theories:
        about["level_of_theory"] = theories.pop()
    dataset = concatenate([part.dataset for part in parts], about | attrs)
    notes = [told] if (told := duplicates(dataset).told(_places(parts))) else []
    return Conversion(dataset, parts, notes)


def _check_keys_have_sources(keys: Mapping[str, str], paths: Sequence[str]) -> None:
    """UserError at a name that no source of these kinds has a use for."""
    kinds = {"npz" if path.endswith(".npz") else "folder" if os.path.isdir(path) else "" for path in paths}
    for name in GEOMETRY:
        if name in keys and "npz" not in kinds:
            raise UserError(
                f"--{name}-key {keys[name]}: expected an npz, whose array it names, found none among the "
                "sources; other formats name theirs"
            )
    if "group" in keys and kinds == {"folder"}:
        raise UserError(
            f"--group-key {keys['group']}: expected a source whose frames may have a group, found folders of "
            "DeePMD alone, whose frames have none"
        )


def _places(parts: list[Source]) -> list[str]:
    """What to call each frame of all sources together."""
    return [
        f"frame {k}" + (f" of {part.name}" if len(parts) > 1 else "")
        for part in parts
        for k in range(len(part.dataset))
    ]


def _read(path: str, keys: dict, type_map: Sequence[str] | None) -> Iterator["Found | Source"]:
    check_there([path])
    if os.path.isdir(path):
        yield from read_deepmd(path, keys, type_map)
    elif not os.path.isfile(path):
        raise UserError(f"{path}: expected a file or a folder, found a device or a pipe")
    elif path.endswith(".npz"):
        yield read_npz(path, keys)
    elif path.endswith((".h5", ".hdf5")):
        yield Source(path, "eqpot data set", read_dataset(path), "eV", "Ang")
    else:
        yield read_ase(path, keys)


def _finish(found: Found, given: dict[str, str | None], keys: dict, allow_missing: Collection[str]) -> Source:
    """Frames into a checked Dataset in eV and Å."""
    energy_unit = given["energy"] or unit(found.energy_unit, ENERGY_UNITS, "energy", found.name)
    length_unit = given["length"] or unit(found.length_unit, LENGTH_UNITS, "length", found.name)
    force = force_unit(given["force"] or f"{energy_unit}/{length_unit}")
    stress = stress_unit(given["stress"] or f"{energy_unit}/{length_unit}^3")
    scales = _Units(ENERGY_UNITS[energy_unit], LENGTH_UNITS[length_unit], force[1], stress[1])
    notes = [found.assumed] if found.assumed and not given["energy"] else []
    chosen = choose(found.name, found.columns, keys, told := list(found.notes), found.letters)
    with np.errstate(all="ignore"):  # validate tells of what is not finite
        dataset = _assemble(found, chosen, scales, notes)
    notes += told
    validate(dataset, found.name)
    for label in ("energy", "forces"):
        missing = np.flatnonzero(~dataset.known(label))
        if len(missing) and label not in allow_missing:
            raise UserError(
                f"{found.name}: frame {missing[0]}, {label}: expected in every frame, found none or NaN "
                f"({len(missing)} of {len(dataset)} frames lack it; {found.hint}); name it by --{label}-key, "
                f"or give --allow-missing {label}"
            )
        if len(missing) == len(dataset):
            setattr(dataset, label, None)
    dataset.attrs.update(found.attrs)
    used = {
        "energy": energy_unit,
        "forces": force[0],
        "stress": stress[0],
        "virial": energy_unit,
        "length": length_unit,
    }
    notes += other_units(found.columns, used) + predicted(found.columns) + doubts(dataset)
    other = [f"forces in {force[0]}"] * bool(given["force"]) + [f"stress in {stress[0]}"] * bool(
        given["stress"]
    )
    return Source(found.name, found.kind, dataset, energy_unit, length_unit, notes, ", ".join(other))


def _assemble(found: Found, chosen: dict[str, str], scales: _Units, notes: list[str]) -> Dataset:
    """Concatenate frames, in eV and Å; a label that is absent becomes NaN."""
    count = len(found.frames)
    absent = [None] * count
    energies, forces_there, stresses, virials = (
        found.columns.get(chosen.get(q, ""), absent) for q in QUANTITIES
    )
    numbers, positions, forces = [], [], []
    cell, pbc = np.zeros((count, 3, 3)), np.zeros((count, 3), dtype=bool)
    energy, stress = np.full(count, np.nan), np.full((count, 3, 3), np.nan)
    unperiodic = from_virial = uneven = 0
    for k, frame in enumerate(found.frames):
        z = as_numbers(found.name, k, frame.numbers)
        n = len(z)
        numbers.append(z)
        positions.append(as_floats(found.name, k, "positions", frame.positions, {(n, 3)}) * scales.length)
        flags = np.asarray(frame.pbc)
        if flags.dtype.kind not in "biuf":
            raise UserError(
                f"{found.name}: frame {k}, pbc: expected true and false, found {short(frame.pbc)}"
            )
        pbc[k] = flags.ravel() != 0
        if pbc[k].any():
            if frame.cell is None:
                raise UserError(f"{found.name}: frame {k}, cell: expected one where pbc is true, found none")
            vectors = as_floats(found.name, k, "cell", frame.cell, {(3, 3), (9,), (3,)}) * scales.length
            vectors = np.diag(vectors) if vectors.shape == (3,) else vectors.reshape(3, 3)
            cell[k] = np.where(pbc[k][:, None], vectors, 0.0)
        if energies[k] is not None:
            energy[k] = as_floats(found.name, k, "energy", energies[k], {(), (1,)}).item() * scales.energy
        if forces_there[k] is None:
            forces.append(np.full((n, 3), np.nan))
        else:
            forces.append(as_floats(found.name, k, "forces", forces_there[k], {(n, 3)}) * scales.forces)
        if stresses[k] is None and virials[k] is None:
            continue
        if not pbc[k].all():
            unperiodic += 1
            continue
        volume = abs(np.linalg.det(cell[k]))
        if volume == 0:
            continue  # the cell is reported as what is wrong
        if stresses[k] is not None:
            stress[k], uneven_here = as_tensor(found.name, k, "stress", stresses[k])
            stress[k] *= scales.stress
            uneven += uneven_here
        if virials[k] is not None:
            virial, uneven_here = as_tensor(found.name, k, "virial", virials[k])
            virial *= scales.energy
            uneven += uneven_here
            if stresses[k] is None:
                from_virial += 1
                stress[k] = -virial / volume
            else:
                _check_virial(f"{found.name}: frame {k}", chosen, stress[k], virial, volume)
    if unperiodic:
        notes.append(f"stress ignored in {unperiodic} frames that are not periodic in three directions")
    if from_virial:
        notes.append(f"stress of {from_virial} frames is -virial / volume")
    if uneven:
        notes.append(f"stress of {uneven} frames is not quite symmetric: the mean of both halves was taken")
    groups = np.array([frame.group for frame in found.frames], dtype=object)
    weights = found.columns.get(chosen.get("weight", ""))
    return Dataset(
        atom_ptr=np.concatenate([[0], np.cumsum([len(z) for z in numbers])]).astype(np.int64),
        numbers=np.concatenate(numbers).astype(np.uint8),
        positions=np.concatenate(positions),
        cell=cell,
        pbc=pbc,
        energy=energy,
        forces=np.concatenate(forces),
        stress=None if np.isnan(stress).all() else stress,
        weight=None if weights is None else _weights(found.name, weights),
        group=groups if any(groups) else None,
    )


def _weights(name: str, column: list) -> np.ndarray:
    """Weight of each frame, 1 where it has none."""
    given = [np.array(1.0) if x is None else x for x in column]
    return np.array([as_floats(name, k, "weight", x, {(), (1,)}).item() for k, x in enumerate(given)])


def _check_virial(
    place: str, chosen: dict[str, str], stress: np.ndarray, virial: np.ndarray, volume: float
) -> None:
    """UserError where a stress is not -virial / volume, with the factor between them where there is one."""
    other = -virial / volume
    size = max(abs(stress).max(), abs(other).max())
    if not abs(stress - other).max() > 1e-3 * size + 1e-5:
        return
    factor = (stress * other).sum() / max((other**2).sum(), 1e-300)
    why = ""
    if abs(stress - factor * other).max() < 1e-2 * abs(stress).max():
        known = {1: "the sign", volume: "the volume", 1 / GPA: "GPa", 10 / GPA: "kbar"}
        names = [name for value, name in known.items() if abs(abs(factor) / value - 1) < 1e-2]
        why = f", {factor:.4g} times that" + (f": {names[0]} alone differs" if names else "")
    at = np.unravel_index(abs(stress - other).argmax(), (3, 3))
    raise UserError(
        f"{place}, stress: expected -virial / volume = {other[at]:.4g} eV/Å^3 ({chosen['virial']}), "
        f"found {stress[at]:.4g} ({chosen['stress']}){why}; "
        f"choose by --stress-key {chosen['stress']} or --virial-key {chosen['virial']}"
    )


def _check_stress(parts: list[Source], allow_missing: Collection[str]) -> None:
    """Stress is wanted of every frame that is periodic in three directions, once one of them has it."""
    if "stress" in allow_missing or all(part.dataset.stress is None for part in parts):
        return
    for part in parts:
        missing = np.flatnonzero(part.dataset.pbc.all(axis=1) & ~part.dataset.known("stress"))
        if len(missing):
            raise UserError(
                f"{part.name}: frame {missing[0]}, stress: expected, since other periodic frames have it, "
                f"found none ({len(missing)} of {len(part.dataset)} frames here); give --allow-missing stress"
            )
