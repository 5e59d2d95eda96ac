"""`eqpot relax`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from eqpot.commands.options import Finite, Whole, device_option, frame, one_of
from eqpot.errors import UserError
from eqpot.words import counted, say

if TYPE_CHECKING:
    from ase import Atoms

    from eqpot.dynamics.relax import Step
    from eqpot.potential import Potential

ALL = ":"


class _Index(Whole):
    """The number of a frame, or ALL."""

    def convert(self, value, param, ctx):
        try:
            return ALL if value == ALL else super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected the number of a frame, or : for all, found {value!r}", param, ctx)


@click.command()
@click.argument("model", metavar="MODEL.h5")
@click.argument("structures", nargs=-1, required=True, metavar="STRUCTURE...")
@click.option(
    *("-o", "--output"), default="relaxed.extxyz", show_default=True, metavar="FILE", help="The result."
)
@click.option(
    "--fmax",
    type=Finite(min=0, min_open=True),
    default=0.01,
    show_default=True,
    help="Longest force left, eV/Å.",
)
@click.option("--steps", type=Whole(1), default=500, show_default=True, help="At most, for each structure.")
@click.option("--cell", is_flag=True, help="The cell, too, to zero stress.")
@click.option(
    "--optimizer",
    type=click.Choice(("lbfgs", "bfgs", "fire")),
    default="lbfgs",
    show_default=True,
    help="One of ASE's.",
)
@click.option(
    "--index",
    type=_Index(),
    default=-1,
    show_default=True,
    metavar="N",
    help="Frame of each STRUCTURE, from 0, or -1, -2, ... from the end; a colon (:) for all.",
)
@click.option("--resume", is_flag=True, help="Leave out the structures that FILE has already.")
@click.option("--overwrite", is_flag=True, help="Replace the result.")
@device_option
def relax(model, structures, output, fmax, steps, cell, optimizer, index, resume, overwrite, device) -> None:
    """Relax STRUCTURE with MODEL.h5, or several.

    STRUCTURE is any file that ASE reads, or a data set. Writes what was reached to FILE, in the format that
    its name tells, also after Ctrl-C. The exit status is 2 where more steps would be needed.

    Several, files or frames (--index :), are relaxed one by one, a line for each, into one FILE, extxyz, in
    which `structure` says where each came from and `relaxed` whether --fmax was reached. FILE has each as
    soon as it is done: --resume goes on after Ctrl-C or a kill.
    """
    one_of(resume, overwrite)
    from eqpot.dynamics.limits import doubted
    from eqpot.files import check_not_read
    from eqpot.potential import Potential

    check_not_read(output, (model, *structures))

    potential = Potential.load(model, device)
    several = len(structures) > 1 or index == ALL
    chosen = _chosen(structures, index, potential) if several else [frame(structures[0], index, potential)]
    for atoms, name in chosen:
        if cell and not atoms.pbc.all():
            raise UserError(
                f"{name}: --cell: expected a structure periodic in all three directions, "
                f"found pbc {atoms.pbc.tolist()}"
            )
        if line := doubted(potential, atoms, name):
            say(f"note: {line}")
    how = partial(_relax, potential, fmax=fmax, steps=steps, cell=cell, optimizer=optimizer)
    if several:
        from eqpot.files import sha256

        settings = f"{optimizer}, fmax {fmax:g}, steps {steps}, cell {cell}, model {sha256(model)[:12]}"
        _many(chosen, how, cell, output, settings, resume, overwrite)
    else:
        if resume:
            raise UserError("--resume: expected several structures, files or --index :, found one")
        _one(*chosen[0], how, cell, output, overwrite)


def _chosen(files: Sequence[str], index: int | str, potential: Potential) -> list[tuple[Atoms, str]]:
    """The frames of all files, each with its name."""
    from eqpot.structures.trajectory import read_trajectory

    found = []
    for file in files:
        if index != ALL:
            found.append(frame(file, index, potential))
            continue
        for atoms in read_trajectory(file):
            name = f"{file}, frame {atoms.info['frame']}"
            potential.check(atoms, name)
            found.append((atoms, name))
    (name, count), *_ = Counter(name for _, name in found).most_common(1)
    if count > 1:
        raise UserError(f"{name}: expected each structure once, found it more than once")
    return found


def _relax(
    potential: Potential,
    atoms: Atoms,
    output: str,
    show: Callable[[Step], None],
    fmax: float,
    steps: int,
    cell: bool,
    optimizer: str,
) -> tuple[list[Step], str]:
    """Relax atoms; the steps, and where fmax was not reached, why not and what to do."""
    from eqpot.calculator import EqpotCalculator
    from eqpot.dynamics.relax import Lost, advice, relax

    found: list[Step] = []

    def look(step: Step) -> None:
        found.append(step)
        show(step)

    atoms.calc = EqpotCalculator(potential)
    why = f"not relaxed after {counted(steps, 'step')}"
    try:
        if relax(atoms, fmax, steps, cell, optimizer, look):
            return found, ""
    except Lost as e:
        why = f"{e}; step {e.step.number} is kept"
        found.append(e.step)
    return found, (
        f"{why}: expected no force above {fmax:g} eV/Å{_as_stress(fmax, found[-1], atoms)}; "
        f"{advice(found, potential, atoms, output)}"
    )


def _row(widths: Sequence[int], cells: Sequence[str]) -> None:
    say("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))


def _columns(cell: bool) -> dict[str, int]:
    """What is shown of a step, and how wide it is."""
    more = {"stress, eV/Å³": 13, "volume, Å³": 11} if cell else {}
    return {"step": 5, "energy, eV": 16, "force, eV/Å": 11} | more


def _cells(step: Step) -> list[str]:
    more = [] if step.stress is None else [f"{step.stress:.3e}", f"{step.volume:.3f}"]
    return [f"{step.number}", f"{step.energy:.6f}", f"{step.force:.5f}", *more]


def _one(atoms: Atoms, name: str, how: Callable, cell: bool, output: str, overwrite: bool) -> None:
    """A line for each step."""
    from eqpot.files import check_structure, write_structure
    from eqpot.structures.trajectory import PREDICTED

    check_structure(output, overwrite)
    atoms.info[PREDICTED] = "eqpot relax"
    columns, last = _columns(cell), 0

    def show(step: Step) -> None:
        nonlocal last
        last = step.number
        _row(list(columns.values()), _cells(step))

    _row(list(columns.values()), list(columns))
    try:
        _, why = how(atoms, output, show)
    except UserError as e:
        raise UserError(f"{name}: {e}") from e
    except KeyboardInterrupt:
        write_structure(output, atoms)
        say(f"wrote {output}, where step {last} had led")
        raise
    write_structure(output, atoms)
    say(f"wrote {output}")
    if why:
        raise UserError(f"{name}: {why}")


def _many(
    chosen: list[tuple[Atoms, str]],
    how: Callable,
    cell: bool,
    output: str,
    settings: str,
    resume: bool,
    overwrite: bool,
) -> None:
    """A line for each structure."""
    from eqpot.dynamics.relaxations import Relaxations

    file = Relaxations(output, settings, resume, overwrite)
    left = [(atoms, name) for atoms, name in chosen if name not in file.done]
    if len(left) < len(chosen):
        say(f"{counted(len(chosen) - len(left), 'structure')} of {len(chosen)} in {output} already")
    widest = max((len(name) for _, name in left), default=0)
    columns = {"structure": max(widest, 9), **_columns(cell)}
    if left:
        _row(list(columns.values()), list(columns))
    reasons = {name: "not relaxed in an earlier call" for name, reached in file.done.items() if not reached}
    try:
        for atoms, name in left:
            try:
                steps, why = how(atoms, output, lambda step: None)
            except UserError as e:
                say(f"{name}: {e}")
                reasons[name] = str(e)
                continue
            file.add(name, atoms, not why, steps[-1].number)
            _row(list(columns.values()), [name, *_cells(steps[-1])])
            if why:
                reasons[name] = why
    except KeyboardInterrupt:
        done = f"{len(file.done)} of {len(chosen)} are in {output}"
        say(f"stopped; {done}; go on with the same command and --resume")
        raise
    say(f"wrote {output}: {counted(len(file.done), 'structure')}")
    failed = [name for _, name in chosen if name in reasons]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(chosen)} structures are not relaxed; the first, {failed[0]}: "
            f"{reasons[failed[0]]}"
        )


def _as_stress(fmax: float, step: Step, atoms: Atoms) -> str:
    """What was found, and with a cell that moves the stress that counts like fmax."""
    if step.stress is None:
        return f", found {step.force:.4g} eV/Å"
    limit = fmax * len(atoms) / step.volume
    return (
        f" and no stress above {limit:.3g} eV/Å³ (the same, by the volume of an atom), "
        f"found {step.force:.4g} eV/Å and {step.stress:.3g} eV/Å³"
    )
