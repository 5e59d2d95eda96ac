"""`eqpot predict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from eqpot.commands.options import device_option
from eqpot.errors import UserError
from eqpot.words import counted, say

if TYPE_CHECKING:
    from eqpot.training.validation import Errors


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
    from eqpot.dynamics.predictions import Predictions
    from eqpot.files import check_output, named_twice, replacing
    from eqpot.potential import Potential
    from eqpot.printing import busy
    from eqpot.structures.trajectory import check_trajectory

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
    with replacing(output) as temporary, open(temporary, "w", encoding="utf-8") as out, busy("predicting"):
        done = Predictions(models, potentials, file, out, against)
        done.make()
    if done.odd.count:
        say(f"note: {done.odd.first}: are its lengths in Å?{done.odd.more()}")
    if done.close.count:
        told = f"{done.close.first}, from what training showed: predictions mean little there"
        say(f"warning: {told}{done.close.more()}")
    say(f"wrote {output}: {counted(done.frames, 'frame')}, {counted(done.atoms, 'atom')}")
    if against:
        _show_errors(done.errors, done.known, file, done.frames)


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
