"""`eqpot relax`."""

import click

from eqpot.commands.options import Finite, Whole, device_option, frame, frame_index
from eqpot.errors import UserError
from eqpot.words import counted, say


@click.command()
@click.argument("model", metavar="MODEL.h5")
@click.argument("structure", metavar="STRUCTURE")
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
@click.option("--steps", type=Whole(1), default=500, show_default=True, help="At most.")
@click.option("--cell", is_flag=True, help="The cell, too, to zero stress.")
@click.option(
    "--optimizer",
    type=click.Choice(("lbfgs", "bfgs", "fire")),
    default="lbfgs",
    show_default=True,
    help="One of ASE's.",
)
@frame_index
@click.option("--overwrite", is_flag=True, help="Replace the result.")
@device_option
def relax(model, structure, output, fmax, steps, cell, optimizer, index, overwrite, device) -> None:
    """Relax STRUCTURE with MODEL.h5.

    STRUCTURE is any file that ASE reads, or a data set. Writes what was reached to FILE, in the format that
    its name tells, also after Ctrl-C. The exit status is 2 where more steps would be needed.
    """
    from eqpot.calculator import EqpotCalculator
    from eqpot.dynamics.relax import Lost, Step, advice, relax
    from eqpot.files import check_structure, write_structure
    from eqpot.potential import Potential

    check_structure(output, overwrite)
    potential = Potential.load(model, device)
    atoms, structure = frame(structure, index, potential)
    if cell and not atoms.pbc.all():
        raise UserError(
            f"{structure}: --cell: expected a structure periodic in all three directions, "
            f"found pbc {atoms.pbc.tolist()}"
        )
    atoms.calc = EqpotCalculator(potential)
    columns = {"step": 5, "energy, eV": 16, "force, eV/Å": 11}
    if cell:
        columns |= {"stress, eV/Å³": 13, "volume, Å³": 11}
    found: list[Step] = []

    def row(*cells: str) -> None:
        say("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, columns.values(), strict=True)))

    def show(step: Step) -> None:
        found.append(step)
        more = (f"{step.stress:.3e}", f"{step.volume:.3f}") if cell else ()
        row(f"{step.number}", f"{step.energy:.6f}", f"{step.force:.5f}", *more)

    row(*columns)
    why = f"not relaxed after {counted(steps, 'step')}"
    try:
        reached = relax(atoms, fmax, steps, cell, optimizer, show)
    except Lost as e:
        reached, why = False, f"{e}; step {e.step.number} is kept"
        found.append(e.step)
    except UserError as e:
        raise UserError(f"{structure}: {e}") from e
    except KeyboardInterrupt:
        write_structure(output, atoms)
        say(f"wrote {output}, where step {found[-1].number if found else 0} had led")
        raise
    write_structure(output, atoms)
    say(f"wrote {output}")
    if not reached:
        raise UserError(
            f"{structure}: {why}: expected no force above {fmax:g} eV/Å{_as_stress(fmax, found[-1], atoms)}; "
            f"{advice(found, potential, atoms, output)}"
        )


def _as_stress(fmax: float, step, atoms) -> str:
    """What was found, and with a cell that moves the stress that counts like fmax."""
    if step.stress is None:
        return f", found {step.force:.4g} eV/Å"
    limit = fmax * len(atoms) / step.volume
    return (
        f" and no stress above {limit:.3g} eV/Å³ (the same, by the volume of an atom), "
        f"found {step.force:.4g} eV/Å and {step.stress:.3g} eV/Å³"
    )
