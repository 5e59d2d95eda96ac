"""`eqpot predict`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from eqpot.commands.options import device_option
from eqpot.errors import UserError
from eqpot.words import counted, say

if TYPE_CHECKING:
    from ase import Atoms

    from eqpot.potential import Potential

ATOMS = 2000  # taken together


@click.command()
@click.argument("files", nargs=-1, metavar="MODEL.h5... FILE")
@click.option(
    *("-o", "--output"),
    default="predicted.extxyz",
    show_default=True,
    metavar="OUT.extxyz",
    help="The result.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
@device_option
def predict(files, output, overwrite, device) -> None:
    """Energies, forces and stress of all frames of FILE, as extxyz.

    FILE is any file that ASE reads, or a data set; it is read, and OUT written, a few frames at a time. OUT
    has energy (eV), forces (eV/Å), energies of the atoms and, for frames periodic in three directions, stress
    (eV/Å³, positive under tension), under the names that ASE knows, and the number of the frame in FILE.
    Several models are a committee: the results are means; energy_std and forces_std are standard deviations
    from these, divided by the number of models. Frames with atoms so close that `eqpot md` would stop are
    told.
    """
    if len(files) < 2:
        raise click.UsageError("expected one model or more and a file: eqpot predict MODEL.h5 FILE")
    from ase.io.extxyz import write_extxyz

    from eqpot.files import check_output, named_twice, replacing
    from eqpot.potential import Potential
    from eqpot.printing import busy
    from eqpot.structures.trajectory import check_trajectory, iterate

    *models, file = files
    if not output.endswith((".extxyz", ".xyz")):
        raise UserError(f"{output}: expected a name that ends in .extxyz or .xyz")
    check_output(output, overwrite)
    check_trajectory(file)
    potentials = [Potential.load(model, device) for model in models]
    say(*(f"warning: {line}" for line in named_twice(models)))
    notes = {
        note: model for model, p in zip(models, potentials, strict=True) if (note := p.provenance.get("note"))
    }
    say(*(f"note: {f'{model}: ' * (len(models) > 1)}{note}" for note, model in notes.items()))
    frames = atoms = 0
    close: list[str] = []
    with replacing(output) as temporary, open(temporary, "w", encoding="utf-8") as out, busy("predicting"):
        for some in _together(iterate(file)):
            for structure in _predicted(models, potentials, some, file, close):
                write_extxyz(out, structure)
            frames, atoms = frames + len(some), atoms + sum(map(len, some))
    if close:
        more = f" ({counted(len(close), 'frame')} of this kind in all)" if len(close) > 1 else ""
        say(f"warning: {close[0]}, from what training showed: predictions mean little there{more}")
    say(f"wrote {output}: {counted(frames, 'frame')}, {counted(atoms, 'atom')}")


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


def _predicted(
    models: list[str], potentials: list[Potential], frames: list[Atoms], file: str, close: list[str]
) -> Iterator[Atoms]:
    """The frames with results; adds to `close` a line for each with atoms closer than dynamics allows."""
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    from eqpot.config import DynamicsConfig
    from eqpot.dynamics.limits import closer_than, closest_approach

    names = [f"{file}: frame {atoms.info['frame']}" for atoms in frames]
    species = potentials[0].species
    limits = closest_approach(potentials, species, DynamicsConfig().min_distance)
    found = []
    for model, p in zip(models, potentials, strict=True):
        asked = f", {model}" if len(models) > 1 else ""
        graphs = [p.graph(atoms, name + asked) for atoms, name in zip(frames, names, strict=True)]
        if p is potentials[0]:
            told = [closer_than(limits, graph, species) for graph in graphs]
            close += [f"{name}: {line}" for name, line in zip(names, told, strict=True) if line]
        found.append(p.of_graphs(graphs))
    for atoms, name, results in zip(frames, names, zip(*found, strict=True), strict=True):
        energies = np.array([r.energy for r in results])
        forces = np.array([r.forces for r in results])
        if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
            raise UserError(f"{name}: expected finite predictions of the model, found NaN or infinity")
        values = {
            "energy": energies.mean(),
            "forces": forces.mean(axis=0),
            "energies": np.mean([r.energies for r in results], axis=0),
        }
        if results[0].stress is not None:
            values["stress"] = full_3x3_to_voigt_6_stress(np.mean([r.stress for r in results], axis=0))
        if len(potentials) > 1:
            atoms.info["energy_std"] = energies.std()
            atoms.arrays["forces_std"] = forces.std(axis=0)
        atoms.calc = SinglePointCalculator(atoms, **values)
        yield atoms
