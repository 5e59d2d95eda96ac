"""What a conversion found, in lines for a terminal."""

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from eqpot.data_tools.convert import Conversion
from eqpot.structures.data import LABELS, Dataset
from eqpot.words import counted, plain

ROWS = 20  # of a table that could be as long as the data


def terminal() -> Console:
    """Wide where nobody looks, so that lines stay whole."""
    width = None if Console().is_terminal else 140
    return Console(highlight=False, markup=False, emoji=False, width=width)


def say(console: Console, text: str) -> None:
    """One line, however long."""
    console.print(plain(text), soft_wrap=True)


def tell(result: Conversion) -> None:
    """Each source, how it was read, and what may be doubted."""
    console = terminal()
    for source in result.sources[:ROWS]:
        part = source.dataset
        facts = (
            f"{counted(len(part), 'frame')} of {_range(part.sizes)} ({elements(part)})",
            f"labels: {_labels(part)}",
            f"{source.kind} in {source.energy_unit}, {source.length_unit}"
            + (f", {source.other_units}" if source.other_units else ""),
        )
        say(console, source.name)  # a line to itself: no table has room for a path
        for line in ("; ".join(facts), _cells(part)):
            console.print(Padding(Text(plain(line)), (0, 0, 0, 2), expand=False))
    if len(result.sources) > ROWS:
        say(console, f"and {len(result.sources) - ROWS} more sources")
    for source in result.sources:
        for note in source.notes:
            say(console, f"{source.name}: {note}")
    for note in result.notes:
        say(console, note)


def contents(dataset: Dataset) -> str:
    """Frames, atoms, elements, labels and weights."""
    frames, atoms = counted(len(dataset), "frame"), counted(len(dataset.numbers), "atom")
    weighted = "" if dataset.weight is None else f", weights {_ends(dataset.weight)}"
    return f"{frames}, {atoms} ({elements(dataset)}), labels: {_labels(dataset)}{weighted}"


def _ends(values: np.ndarray) -> str:
    return f"{values.min():g} to {values.max():g}"


def elements(dataset: Dataset) -> str:
    """Symbols, of the first few where there are many."""
    symbols = [chemical_symbols[z] for z in dataset.species]
    if len(symbols) > 12:
        symbols = [*symbols[:10], f"and {len(symbols) - 10} more"]
    return " ".join(symbols)


def _labels(dataset: Dataset) -> str:
    counts = {label: int(dataset.known(label).sum()) for label in LABELS}
    names = [
        label if count == len(dataset) else f"{label} ({count} of {len(dataset)})"
        for label, count in counts.items()
        if count
    ]
    return ", ".join(names) or "none"


def _cells(dataset: Dataset) -> str:
    """Periodic directions of the frames, and lengths of the vectors there."""
    told = []
    for directions in np.unique(dataset.pbc.sum(axis=1)):
        frames = dataset.pbc.sum(axis=1) == directions
        count = "" if frames.all() else f"{frames.sum()} "
        if not directions:
            told.append(f"{count}not periodic")
            continue
        lengths = np.linalg.norm(dataset.cell[frames], axis=2)
        ends = [(f"{column.min():.4g}", f"{column.max():.4g}") for column in lengths.T if column.any()]
        cell = " x ".join(low if low == high else f"{low}..{high}" for low, high in ends)
        told.append(f"{count}periodic in {counted(int(directions), 'direction')}, cell {cell} Å")
    return "; ".join(told)


def _range(sizes) -> str:
    low, high = int(sizes.min()), int(sizes.max())
    return counted(low, "atom") if low == high else f"{low} to {high} atoms"


def size(path: str) -> str:
    """Of a file, with its unit."""
    size = Path(path).stat().st_size
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
