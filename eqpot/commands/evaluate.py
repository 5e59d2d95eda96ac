"""`eqpot eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eqpot.commands.options import device_option
from eqpot.commands.sources import check_used, frames
from eqpot.data_tools.options import reading, source_options
from eqpot.words import counted, say

if TYPE_CHECKING:
    from eqpot.potential import Potential
    from eqpot.printing import PlainTable
    from eqpot.structures.data import Dataset

# what the table shows: (keys begin with, title, unit); the numbers are printed in thousandths
QUANTITIES = (
    ("energy_per_atom", "energy per atom", "meV/atom"),
    ("energy", "total energy", "meV"),
    ("forces", "force components", "meV/Å"),
    ("stress", "stress components", "meV/Å³"),
)


@click.command("eval")
@click.argument("model", metavar="MODEL.h5")
@click.argument("data", nargs=-1, required=True, metavar="DATA...")
@click.option("--json", "json_file", metavar="FILE", help="Write the errors as JSON.")
@click.option("--plots", metavar="DIR", help="Draw predicted against reference values.")
@click.option("--overwrite", is_flag=True, help="Replace FILE, and the pictures in DIR.")
@device_option
@source_options(hidden=True)
def evaluate(model, data, json_file, plots, overwrite, device, **options) -> None:
    """Errors of MODEL.h5 on the labelled frames of DATA.

    DATA is a data set file, or any sources that `eqpot data convert` takes, with its options for units, keys,
    types and missing labels (`eqpot data convert --help`).
    """
    from eqpot.files import check_folder, check_output, write_json
    from eqpot.potential import Potential
    from eqpot.printing import show
    from eqpot.structures.data import LABELS, Dataset, read_dataset
    from eqpot.training.validation import compare

    check_used(data, options)
    potential = Potential.load(model, device)
    found = frames(data, reading(options))
    dataset = found if isinstance(found, Dataset) else read_dataset(found)
    if json_file is not None:
        check_output(json_file, overwrite, (model, *data))
    if plots is not None:
        check_folder(plots, [f"{label}.png" for label in LABELS], overwrite)
    content, prediction, warning = compare(potential, dataset)
    say(*(f"warning: {line}" for line in [warning] if line), *_lengths(potential, dataset))
    if potential.provenance.get("note"):
        say(f"note: {potential.provenance['note']}")
    show(*tables(content, f"errors on the {counted(len(dataset), 'frame')} of {dataset.path}"))
    say(*(f"warning: {line}" for line in content["doubts"]))
    if json_file is not None:
        write_json(json_file, content)
        say(f"wrote {json_file}")
    if plots is not None:
        from eqpot.plots import parity

        for path in parity(dataset, prediction, plots):
            say(f"wrote {path}")


def _lengths(potential: Potential, dataset: Dataset) -> list[str]:
    """A note where structures, up to a hundred throughout the data, look as if they were not in Å."""
    import numpy as np

    from eqpot.dynamics.limits import doubted

    name = dataset.path or "data"
    for k in np.unique(np.linspace(0, len(dataset) - 1, 100).astype(int)).tolist():
        if line := doubted(potential, dataset.atoms(k), f"{name}: frame {k}"):
            return [f"note: {line}"]
    return []


def tables(content: dict[str, Any], title: str) -> list[PlainTable]:
    """The report for a terminal: all frames, then elements and groups where there is more than one."""
    from eqpot.printing import PlainTable

    whole = PlainTable(title)
    for column in ("", "MAE", "RMSE", ""):
        whole.add_column(column, justify="right" if column else "left")
    for key, name, unit in QUANTITIES:
        if content[f"{key}_mae"] is not None:
            whole.add_row(name, *_thousandths(content, key), unit)
    shown = [whole]
    if len(content["per_element"]) > 1 and content["forces_mae"] is not None:
        part = PlainTable("force components by element, meV/Å")
        for column in ("", "MAE", "RMSE", "atoms"):
            part.add_column(column, justify="right" if column else "left")
        for symbol, row in content["per_element"].items():
            part.add_row(symbol, *_thousandths(row, "forces"), str(row["atoms"]))
        shown.append(part)
    if len(content["per_group"]) > 1:
        part = PlainTable("RMSE by group")
        part.add_column("")
        keys = [q for q in QUANTITIES if q[0] != "energy" and content[f"{q[0]}_mae"] is not None]
        for _, _, unit in keys:
            part.add_column(unit, justify="right")
        part.add_column("frames", justify="right")
        for name, row in content["per_group"].items():
            part.add_row(name, *(_thousandths(row, key)[1] for key, _, _ in keys), str(row["frames"]))
        shown.append(part)
    return shown


def _thousandths(row: dict[str, Any], key: str) -> tuple[str, str]:
    mae, rmse = row[f"{key}_mae"], row[f"{key}_rmse"]
    return tuple("-" if x is None else f"{1000 * x:.4g}" for x in (mae, rmse))
