"""`eqpot inspect`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from eqpot.commands.options import frame, frame_index
from eqpot.errors import UserError
from eqpot.words import counted, say

if TYPE_CHECKING:
    from eqpot.inspect import Inspection
    from eqpot.printing import PlainTable


@click.command("inspect")
@click.argument("model", metavar="MODEL.h5")
@click.argument("structure", metavar="STRUCTURE")
@click.option(
    *("-o", "--output"),
    metavar="FILE.html",
    help="The report. [report.html, unless --text or --json is given]",
)
@click.option("--text", is_flag=True, help="Print the numbers as tables.")
@click.option("--json", "json_file", metavar="FILE", help="Write the numbers as JSON.")
@frame_index
@click.option("--overwrite", is_flag=True, help="Replace the report, and FILE.")
def inspect(model, structure, output, text, json_file, index, overwrite) -> None:
    """What each tensor product of MODEL.h5 does in STRUCTURE.

    STRUCTURE is any file that ASE reads, or a data set. For every path of every block: how large its messages
    are, its share of the energy (the shares and a rest sum to it), what happens when it is switched off, what
    it costs; and how well each block keeps the symmetry. The report, an HTML page that needs no network,
    shows all of it on the structure.
    """
    from eqpot.files import check_output, write_json
    from eqpot.inspect import inspect_structure
    from eqpot.potential import Potential
    from eqpot.printing import busy, show
    from eqpot.report import to_json, write_report

    if output is None and not text and json_file is None:
        output = "report.html"
    if output is not None:
        if not output.endswith((".html", ".htm")):
            raise UserError(f"{output}: expected a name that ends in .html")
        check_output(output, overwrite, (model, structure))
    if json_file is not None:
        check_output(json_file, overwrite, (model, structure))
    potential = Potential.load(model)
    atoms, structure = frame(structure, index, potential)
    with busy("inspecting"):
        try:
            found = inspect_structure(potential, atoms, structure)
        except UserError as e:
            raise UserError(f"{structure}: {e}") from e
    if text:
        show(*tables(found))
    if json_file is not None:
        write_json(json_file, to_json(found))
        say(f"wrote {json_file}")
    if output is not None:
        write_report(found, output)
        say(f"wrote {output}")


def tables(found: Inspection) -> list[PlainTable]:
    """Paths by block, and what the symmetry is worth."""
    from eqpot.printing import PlainTable

    paths = PlainTable(
        f"{found.name}, {counted(len(found.atoms), 'atom')}, "
        f"{counted(len(found.distances), 'edge')}, {found.energy:.6f} eV",
        found.model,
        "share: of the energy, by integrated gradients; off: with the path switched off, less the whole",
    )
    for heading in ("block", "path"):
        paths.add_column(heading)
    for heading in ("message\nnorm", "share\neV", "off\neV", "off, force\neV/Å", "\nMflop", "alone\nms"):
        paths.add_column(heading, justify="right")
    for k, row in enumerate(found.paths):
        first = k == 0 or found.paths[k - 1].block != row.block
        if first and k:
            paths.add_section()
        paths.add_row(
            f"{row.block}" if first else "",
            row.path,
            f"{row.message_norm:.3g}",
            f"{row.energy_share:.4f}",
            f"{row.energy_change_off:.4f}",
            f"{row.force_change_off:.4f}",
            f"{row.operations / 1e6:.3f}",
            "" if math.isnan(row.seconds) else f"{1e3 * row.seconds:.3f}",
        )
    paths.add_section()
    paths.add_row("rest", "", "", f"{found.energy_rest:.4f}")
    total = sum(row.energy_share for row in found.paths) + found.energy_rest
    paths.add_row("sum", "", "", f"{total:.4f}")
    symmetry = PlainTable("largest deviation of a block's features from the symmetry, relative, in float64")
    for heading in ("block", "rotation", "mirror", "permutation"):
        symmetry.add_column(heading, justify="left" if heading == "block" else "right")
    for row in found.equivariance:
        symmetry.add_row(str(row["block"]), *(f"{row[name]:.1e}" for name in list(row)[1:]))
    return [paths, symmetry]
