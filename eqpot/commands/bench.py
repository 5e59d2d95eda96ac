"""`eqpot bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eqpot.commands.options import Finite, check_index, device_option, frame, frame_index
from eqpot.errors import UserError
from eqpot.words import say

if TYPE_CHECKING:
    from eqpot.printing import PlainTable


@click.command()
@click.argument("model", required=False, metavar="[MODEL.h5]")
@click.argument("structure", required=False, metavar="[STRUCTURE]")
@click.option("--threads", metavar="N,N,...", help="Numbers of threads. [1 and all cores]")
@click.option(
    "--seconds", type=Finite(min=0, max=86400), default=3.0, show_default=True, help="For each time."
)
@click.option("--training", is_flag=True, help="Training steps on the ethanol sample, too.")
@frame_index
@click.option("--json", "json_file", metavar="FILE", help="Write the times as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@device_option
def bench(model, structure, threads, seconds, training, index, json_file, overwrite, device) -> None:
    """How fast force calls are on this machine.

    With MODEL.h5 on STRUCTURE, any file that ASE reads or a data set. Without a structure, on a molecule and
    two boxes of water; without a model too, with an untrained potential of the default settings.
    """
    from eqpot import benchmark
    from eqpot.backend import resolve
    from eqpot.files import check_output, write_json
    from eqpot.potential import Potential
    from eqpot.printing import show
    from eqpot.threads import most_threads

    check_index(structure, index)
    if json_file is not None:
        check_output(json_file, overwrite, (model, structure))
    device = resolve(device)
    potential = None if model is None else Potential.load(model, device)
    if structure is None:
        systems = benchmark.structures()
    else:
        atoms, structure = frame(structure, index, potential)
        systems = {structure: atoms}
    if potential is not None and structure is None:
        known = set(potential.species)
        systems = {name: atoms for name, atoms in systems.items() if known.issuperset(atoms.numbers.tolist())}
        if not systems:
            raise UserError(f"{model}: expected a STRUCTURE too, since the model knows no H and O")
    counts = _threads(threads, most_threads())
    rows = benchmark.force_calls(potential, systems, counts, seconds, device)
    if training:
        rows += benchmark.training_steps(counts, seconds, device)
    about = benchmark.machine(device)
    show(table(rows, about))
    if json_file is not None:
        write_json(json_file, {"machine": about, "results": rows})
        say(f"wrote {json_file}")


def _threads(given: str | None, available: int) -> list[int]:
    if given is None:
        return sorted({1, available})
    try:
        counts = [int(part) for part in given.split(",")]
    except ValueError:
        counts = []
    if not counts or not all(1 <= count <= available for count in counts):
        raise UserError(f"--threads: expected numbers from 1 to {available}, found {given!r}")
    return counts


def table(rows: list[dict[str, Any]], about: dict[str, str | int]) -> PlainTable:
    """What was measured; speeds of dynamics are without the integrator's own time."""
    from eqpot.printing import PlainTable
    from eqpot.timing import TIME_STEP, nanoseconds_per_day

    gpu = f"{about['gpu']}; " if "gpu" in about else ""
    found = PlainTable(
        f"{gpu}{about['cpu']}, {about['cores']} cores; eqpot {about['eqpot']}, numba {about['numba']}",
        f"ns/day: dynamics at a time step of {TIME_STEP:g} fs; first: the first call, with what it compiles",
    )
    found.add_column("")
    for heading in ("atoms", "threads", "ms", "µs/atom", "ns/day", "first, s"):
        found.add_column(heading, justify="right")
    for r in rows:
        seconds = r["seconds"]
        found.add_row(
            r["structure"],
            f"{r['atoms']}",
            f"{r['threads']}",
            f"{1e3 * seconds:.2f}",
            f"{1e6 * seconds / r['atoms']:.1f}",
            f"{nanoseconds_per_day(seconds):.2f}" if r["kind"] == "force call" else "",
            f"{r['first_seconds']:.1f}",
        )
    return found
