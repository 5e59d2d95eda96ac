"""`eqpot predict`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from eqpot.commands.options import device_option
from eqpot.errors import UserError
from eqpot.words import counted, plain, say

if TYPE_CHECKING:
    from ase import Atoms

    from eqpot.potential import Potential
    from eqpot.structures.data import Dataset
    from eqpot.structures.frames import Labels
    from eqpot.training.validation import Errors

ATOMS = 2000  # taken together


@dataclass
class _Kind:
    """Frames of which the same is to be told: a line about the first, and how many there are."""

    first: str = ""
    count: int = 0

    def add(self, name: str, line: str) -> None:
        """line: empty for a frame that is not one of them."""
        if line:
            self.first, self.count = self.first or f"{name}: {line}", self.count + 1

    def more(self) -> str:
        return f" ({counted(self.count, 'frame')} of this kind in all)" if self.count > 1 else ""


@click.command()
@click.argument("files", nargs=-1, metavar="MODEL.h5... FILE")
@click.option(
    *("-o", "--output"),
    default="predicted.extxyz",
    show_default=True,
    metavar="OUT.extxyz",
    help="The result.",
)
@click.option("--against", is_flag=True, help="Print the errors, too, where FILE has labels.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
@device_option
def predict(files, output, against, overwrite, device) -> None:
    """Energies, forces and stress of all frames of FILE, as extxyz.

    FILE is any file that ASE reads, or a data set; it is read, and OUT written, a few frames at a time. OUT
    has energy (eV), forces (eV/Å), energies of the atoms and, for frames periodic in three directions, stress
    (eV/Å³, positive under tension), under the names that ASE knows, the number of the frame in FILE, its
    config_type, and the model in predicted_by.
    Several models are a committee: the results are means; energy_std and forces_std are standard deviations
    from these, divided by the number of models. Frames with atoms so close that `eqpot md` would stop are
    told, and those that look as if their lengths were not in Å. --against takes labels under the names that
    ASE knows, in eV and Å; `eqpot eval` takes others.
    """
    if len(files) < 2:
        raise click.UsageError("expected one model or more and a file: eqpot predict MODEL.h5 FILE")
    from concurrent.futures import ThreadPoolExecutor

    from eqpot.files import check_output, named_twice, replacing
    from eqpot.potential import Potential
    from eqpot.printing import busy
    from eqpot.structures.data import LABELS
    from eqpot.structures.trajectory import check_trajectory, iterate
    from eqpot.structures.xyz_frames import frame_text
    from eqpot.training.validation import Errors

    *models, file = files
    if not output.endswith((".extxyz", ".xyz")):
        raise UserError(f"{output}: expected a name that ends in .extxyz or .xyz")
    check_trajectory(file)
    potentials = [Potential.load(model, device) for model in models]
    check_output(output, overwrite, files)
    say(*(f"warning: {line}" for line in named_twice(models)))
    notes = {
        note: model for model, p in zip(models, potentials, strict=True) if (note := p.provenance.get("note"))
    }
    say(*(f"note: {f'{model}: ' * (len(models) > 1)}{note}" for note, model in notes.items()))
    frames = atoms = 0
    close, odd, errors, known = _Kind(), _Kind(), Errors(), Counter()
    parts = _together(iterate(file, labelled=against, grouped=True))
    with (
        replacing(output) as temporary,
        open(temporary, "w", encoding="utf-8") as out,
        ThreadPoolExecutor(1) as beside,  # text takes as long as kernels, which leave Python alone
        busy("predicting"),
    ):

        def turn(done: list[Atoms]) -> list[Atoms]:
            """Write what is done, and read what is next; nothing at the end."""
            out.writelines(map(frame_text, done))
            return next(parts, [])

        done, ahead = [], beside.submit(turn, [])
        while some := ahead.result():
            ahead = beside.submit(turn, done)
            labels = _labels(some, file) if against else None
            done = list(_predicted(models, potentials, some, file, close, odd))
            if labels is not None:
                errors.add(labels, _as_labels(done))
                known.update({label: int(labels.known(label).sum()) for label in LABELS})
            frames, atoms = frames + len(some), atoms + sum(map(len, some))
        turn(done)
    if odd.count:
        say(f"note: {odd.first}: are its lengths in Å?{odd.more()}")
    if close.count:
        say(f"warning: {close.first}, from what training showed: predictions mean little there{close.more()}")
    say(f"wrote {output}: {counted(frames, 'frame')}, {counted(atoms, 'atom')}")
    if against:
        _show_errors(errors, known, file, frames)


def _show_errors(errors: Errors, known: Mapping[str, int], file: str, frames: int) -> None:
    """known: frames with each label."""
    from eqpot.commands.evaluate import tables
    from eqpot.printing import show

    if not any(known.values()):
        say(
            f"warning: {file}: --against: expected energy, forces or stress under the names that ASE knows, "
            "found no labels; eqpot eval takes other names"
        )
        return
    found = errors.report()
    show(*tables(found, f"errors on the {counted(frames, 'frame')} of {file}"))
    say(*(f"warning: {line}" for line in found["doubts"]))
    partly = [f"{label} in {count}" for label, count in known.items() if 0 < count < frames]
    if partly:
        say(f"of {counted(frames, 'frame')} these have labels: {', '.join(partly)}")


def _together(frames: Iterable[Atoms]) -> Iterator[list[Atoms]]:
    """As many of them as have ATOMS atoms, and at least one."""
    some: list[Atoms] = []
    for atoms in frames:
        if some and sum(map(len, some)) + len(atoms) > ATOMS:
            yield some
            some = []
        some.append(atoms)
    if some:
        yield some


def _labels(frames: list[Atoms], file: str) -> Dataset:
    """The frames with the labels that they carry, NaN where they have none.

    UserError at labels that are no finite numbers of the right shape.
    """
    import numpy as np

    from eqpot.structures.data import Dataset

    def label(atoms: Atoms, name: str, shape: tuple[int, ...]) -> np.ndarray:
        found = atoms.calc.results.get(name) if atoms.calc else None
        if found is None:
            return np.full(shape, np.nan)
        where = f"{file}: frame {atoms.info['frame']}, {name}"
        try:
            values = np.asarray(found, float)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: expected numbers, found {str(found)[:40]!r}") from error
        if name == "stress" and values.shape == (6,):
            values = values[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
        if values.shape != shape or not np.isfinite(values).all():
            what = "NaN or infinity" if values.shape == shape else f"shape {values.shape}"
            raise UserError(f"{where}: expected finite numbers of shape {shape}, found {what}")
        return values if name != "stress" or atoms.pbc.all() else np.full(shape, np.nan)

    groups = np.array([str(atoms.info.get("config_type", "")) for atoms in frames], dtype=object)
    return Dataset(
        atom_ptr=np.concatenate([[0], np.cumsum([len(atoms) for atoms in frames])]),
        numbers=np.concatenate([atoms.numbers for atoms in frames]),
        positions=np.concatenate([atoms.positions for atoms in frames]),
        cell=np.array([atoms.cell[:] for atoms in frames]),
        pbc=np.array([atoms.pbc for atoms in frames]),
        energy=np.array([label(atoms, "energy", ()) for atoms in frames]),
        forces=np.concatenate([label(atoms, "forces", (len(atoms), 3)) for atoms in frames]),
        stress=np.array([label(atoms, "stress", (3, 3)) for atoms in frames]),
        group=groups,
    )


def _as_labels(done: list[Atoms]) -> Labels:
    """The predictions of some frames."""
    import numpy as np

    from eqpot.structures.frames import Labels

    unknown = np.full((3, 3), np.nan)
    return Labels(
        np.array([atoms.info["energy"] for atoms in done]),
        np.concatenate([atoms.arrays["forces"] for atoms in done]),
        np.array([atoms.info.get("stress", unknown) for atoms in done]),
    )


def _predicted(
    models: list[str],
    potentials: list[Potential],
    frames: list[Atoms],
    file: str,
    close: _Kind,
    odd: _Kind,
) -> Iterator[Atoms]:
    """The frames with results; adds to `close` those with atoms closer than dynamics allows, to `odd` those
    that are unlike training."""
    import numpy as np

    from eqpot.config import DynamicsConfig
    from eqpot.dynamics.limits import closer_than, closest_approach, unlike
    from eqpot.structures.trajectory import PREDICTED

    names = [f"{file}: frame {atoms.info['frame']}" for atoms in frames]
    species = potentials[0].species
    limits = closest_approach(potentials, species, DynamicsConfig().min_distance)
    found = []
    for model, p in zip(models, potentials, strict=True):
        asked = f", {model}" if len(models) > 1 else ""
        graphs = [p.graph(atoms, name + asked) for atoms, name in zip(frames, names, strict=True)]
        if p is potentials[0]:
            for name, graph, atoms in zip(names, graphs, frames, strict=True):
                close.add(name, closer_than(limits, graph, species))
                odd.add(name, unlike(p, graph, atoms.pbc.any()))
        found.append(p.of_graphs(graphs))
    predicted_by = ", ".join(map(plain, models))
    for atoms, name, results in zip(frames, names, zip(*found, strict=True), strict=True):
        energies = np.array([r.energy for r in results])
        forces = np.array([r.forces for r in results])
        if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
            raise UserError(f"{name}: expected finite predictions of the model, found NaN or infinity")
        atoms.info[PREDICTED] = predicted_by
        atoms.arrays.pop("forces_std", None)  # of another prediction
        if len(potentials) > 1:
            atoms.info["energy_std"] = energies.std()
            atoms.arrays["forces_std"] = forces.std(axis=0)
        atoms.info["energy"], atoms.arrays["forces"] = energies.mean(), forces.mean(axis=0)
        atoms.arrays["energies"] = np.mean([r.energies for r in results], axis=0)
        if results[0].stress is not None:
            atoms.info["stress"] = np.mean([r.stress for r in results], axis=0)
        yield atoms
