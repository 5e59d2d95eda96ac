"""`eqpot check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eqpot.commands.options import device_option, frame, frame_index
from eqpot.errors import UserError
from eqpot.words import counted, say

if TYPE_CHECKING:
    from eqpot.dynamics.check import Finding
    from eqpot.printing import PlainTable


@click.command()
@click.argument("model", metavar="MODEL.h5")
@click.argument("structure", metavar="STRUCTURE")
@frame_index
@device_option
def check(model, structure, index, device) -> None:
    """Check MODEL.h5 on STRUCTURE before a long run.

    STRUCTURE is any file that ASE reads, or a data set. Forces and stress against differences of the energy,
    rotation, order of the atoms, pairs of atoms near the cutoff and close together, energy drift, speed and
    memory. The exit status is 2 where one of them fails.
    """
    from eqpot.dynamics.check import check
    from eqpot.dynamics.limits import doubted
    from eqpot.potential import Potential
    from eqpot.printing import busy, show

    potential = Potential.load(model, device)
    atoms, structure = frame(structure, index, potential)
    if line := doubted(potential, atoms, structure):
        say(f"note: {line}")
    with busy("checking"):
        findings = list(check(potential, atoms))
    show(table(findings, f"{model} on {structure}, {counted(len(atoms), 'atom')}"))
    judged = [finding for finding in findings if finding.limit is not None]
    failed = [finding for finding in judged if not finding.passed]
    if failed:
        remedies = "".join(f"; {text}" for text in sorted({finding.remedy for finding in failed} - {""}))
        raise UserError(
            f"{model}: {len(failed)} of {len(judged)} checks failed on {structure}, see the table{remedies}"
        )


def table(findings: list[Finding], title: str) -> PlainTable:
    """For a terminal."""
    from eqpot.printing import PlainTable

    shown = PlainTable(title)
    shown.add_column("")
    for heading in ("found", "at most", "", ""):
        shown.add_column(heading, justify="left" if heading == "" else "right")
    for f in findings:
        limit, verdict = ("", "") if f.limit is None else (f"{f.limit:g}", "pass" if f.passed else "FAIL")
        shown.add_row(f.question, "" if f.value is None else f"{f.value:.3g}", limit, f.unit, verdict)
    return shown
