"""`eqpot explain`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

from eqpot.commands.options import check_index, frame, frame_index
from eqpot.words import counted

if TYPE_CHECKING:
    from eqpot.network.steps import Step
    from eqpot.potential import Potential
    from eqpot.printing import PlainTable


@click.command()
@click.argument("model", metavar="MODEL.h5")
@click.argument("structure", required=False, metavar="[STRUCTURE]")
@frame_index
def explain(model, structure, index) -> None:
    """MODEL.h5 as a list of steps: shapes, formulas, weights.

    With STRUCTURE, any file that ASE reads or a data set, also the operations and bytes of a force call, and
    where they go.
    """
    from eqpot.potential import Potential
    from eqpot.printing import show

    check_index(structure, index)
    potential = Potential.load(model)
    shown = [computation(potential)]
    if structure is not None:
        atoms, structure = frame(structure, index, potential)
        shown.append(cost(potential, structure, len(atoms), len(potential.graph(atoms).senders)))
    show(*shown)


def computation(potential: Potential) -> PlainTable:
    """Every step; blocks that are alike are shown once."""
    from rich.text import Text

    from eqpot.network.steps import steps
    from eqpot.printing import PlainTable

    shown = PlainTable(
        repr(potential),
        "n atoms, E edges from j to i, cutoff c; every W is trained, the number before it is fixed",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("", "shape", "formula"):
        shown.add_column(heading, no_wrap=heading != "formula")
    shown.add_column("weights", justify="right")
    found = steps(potential.model)
    for heading, members in _alike(found):
        shown.add_row(Text(heading, "bold"))
        for step in members:
            name = step.name.split(".", 1)[1] if step.part.startswith("block ") else step.name
            formula = step.formula + (f"  [{step.unit}]" if step.unit else "")
            about = Text.assemble(formula, "\n", (step.meaning, "dim"))
            shown.add_row(f"  {name}", step.axes, about, f"{step.weights:,}" if step.weights else "")
    shown.add_section()
    shown.add_row(Text("all", "bold"), "", "", f"{sum(step.weights for step in found):,}")
    return shown


def _alike(found: Sequence[Step]) -> list[tuple[str, list[Step]]]:
    """(heading, steps) of each part; runs of equal blocks become one."""
    runs: list[list[list[Step]]] = []
    for _, members in groupby(found, lambda step: step.part):
        members = list(members)
        if runs and [_unnumbered(step) for step in runs[-1][0]] == [_unnumbered(step) for step in members]:
            runs[-1].append(members)
        else:
            runs.append([members])
    headings = [
        run[0][0].part if len(run) == 1 else f"blocks {_number(run[0])} to {_number(run[-1])}, each"
        for run in runs
    ]
    return [(heading, run[0]) for heading, run in zip(headings, runs, strict=True)]


def _number(block: list[Step]) -> str:
    return block[0].part.split()[1]


def _unnumbered(step: Step) -> tuple:
    return step.name.partition(".")[2], step.shape, step.formula, step.weights, step.operations


def cost(potential: Potential, name: str, atoms: int, edges: int) -> PlainTable:
    """Where the operations and bytes of a force call go."""
    import numpy as np
    from rich.text import Text

    from eqpot.network.steps import KINDS, steps
    from eqpot.printing import PlainTable

    itemsize = np.dtype(potential.dtype).itemsize
    rows = [
        (s.part, s.kind, s.operations.of(atoms, edges), s.bytes(atoms, edges, itemsize))
        for s in steps(potential.model)
    ]
    total_operations, total_bytes = (sum(row[k] for row in rows) for k in (2, 3))
    shown = PlainTable(
        f"one force call on {name}: {counted(atoms, 'atom')}, {counted(edges, 'edge')} "
        f"({edges / atoms:.1f} per atom)",
        "bytes: what each step takes and gives, as if it were by itself",
    )
    shown.add_column("")
    for heading in ("Mflop", "%", "MB", "%"):
        shown.add_column(heading, justify="right")

    def add(label, part: Sequence[tuple]) -> None:
        flop, size = (sum(row[k] for row in part) for k in (2, 3))
        shares = (f"{100 * flop / total_operations:.1f}", f"{100 * size / total_bytes:.1f}")
        shown.add_row(label, f"{flop / 1e6:.3f}", shares[0], f"{size / 1e6:.3f}", shares[1])

    for part, members in groupby(rows, lambda row: row[0]):
        members = list(members)
        add(part, members)
        for kind in KINDS:
            if of_kind := [row for row in members if row[1] == kind]:
                add(f"  {kind}", of_kind)
    shown.add_section()
    add(Text("all", "bold"), rows)
    return shown
