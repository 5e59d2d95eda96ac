"""Tables and progress on a terminal. What is printed is shown as it is: nothing in it is markup."""

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod, RenderableType
from rich.measure import Measurement
from rich.status import Status
from rich.table import Table
from rich.text import Text

from eqpot.words import plain

PADDING, EDGE = 3, 1  # characters between columns, and before the first
FOLDED = 20  # characters that a column of words gets at least


def console() -> Console:
    """The standard output."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def busy(doing: str) -> Status:
    """A line on a terminal that says what is being done inside a with."""
    return console().status(Text(plain(doing)))


def show(*tables: Table) -> None:
    """Print tables, beyond the edge of the terminal where numbers need it."""
    for table in tables:
        shown = console()
        shown.width = max(shown.width, _least_width(table, shown))
        shown.print(table)


def _least_width(table: Table, shown: Console) -> int:
    """Characters that its numbers take, and some for its words."""
    whole = shown.options.update(width=10_000)
    widths = [
        max(Measurement.get(shown, whole, cell).maximum for cell in (column.header, *column.cells))
        for column in table.columns
    ]
    return EDGE + sum(
        PADDING + (width if column.no_wrap else min(width, FOLDED))
        for width, column in zip(widths, table.columns, strict=True)
    )


class PlainTable(Table):
    """A table below lines of a title, whose words are shown as they are; a Text may have a style.

    Words are folded where there is too little room; numbers, to the right, never are.
    """

    def __init__(self, *title: str, **options):
        heading = Text("\n".join(map(plain, title)), style="table.title") if title else None
        super().__init__(title=heading, title_justify="left", box=SIMPLE_HEAD, **options)

    def add_column(self, header: str = "", *rest, justify: JustifyMethod = "left", **options) -> None:
        options = {"overflow": "fold", "no_wrap": justify == "right", **options}
        super().add_column(header, *rest, justify=justify, **options)

    def add_row(self, *cells: str | Text) -> None:
        """A cell for each column."""
        shown: list[RenderableType] = [Text(plain(c)) if isinstance(c, str) else c for c in cells]
        super().add_row(*shown)
