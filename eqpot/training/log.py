"""log.csv of a fit: a row per epoch."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eqpot.errors import UserError
from eqpot.files import replacing

ERRORS = tuple(
    f"{name}_{kind}" for name in ("energy_per_atom", "forces", "stress") for kind in ("mae", "rmse")
)
COLUMNS = (
    "epoch",
    "time",
    "learning_rate",
    "loss",
    "loss_energy",
    "loss_forces",
    "loss_stress",
    *(f"valid_{name}" for name in ERRORS),
)


def write_log(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The whole file anew."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerow(COLUMNS)
        csv.writer(file).writerows(_cells(row) for row in rows)


def extend_log(path: Path, row: Mapping[str, Any]) -> None:
    """One more line; a whole new file each epoch would cost more than the epoch, in the end."""
    try:
        with open(path, "a", newline="") as file:
            csv.writer(file).writerow(_cells(row))
    except OSError as e:
        raise UserError(f"{path}: cannot be written: {e.strerror}") from e


def read_log(path: Path) -> list[dict[str, Any]]:
    """Its whole lines, None where there is no number; none where there is no file."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.reader(line for line in file if line.endswith("\n")))  # not half a line
        if rows and tuple(rows[0]) != COLUMNS:
            raise ValueError(f"columns {', '.join(rows[0])}"[:100])
        return [_row(row) for row in rows[1:]]
    except FileNotFoundError:
        return []
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror}") from e
    except (ValueError, csv.Error) as e:
        raise UserError(f"{path}: expected the table of the run, found a row that is none: {e}") from None


def _row(cells: list[str]) -> dict[str, Any]:
    row = {k: float(cell) if cell else None for k, cell in zip(COLUMNS, cells, strict=True)}
    return row | {"epoch": int(cells[0])}


def _cells(row: Mapping[str, Any]) -> list[Any]:
    """A row of the log, in the order of its columns; nothing where there is no number."""
    values = [row[key] for key in COLUMNS]
    return ["" if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in values]
