"""Tables and progress on a terminal. What is printed is shown as it is: nothing in it is markup."""

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.status import Status
from rich.table import Table
from rich.text import Text

from eqpot.words import plain


def console() -> Console:
    """The standard output."""
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def busy(doing: str) -> Status:
    """A line on a terminal that says what is being done inside a with."""
    return console().status(Text(plain(doing)))


def show(*tables: Table) -> None:
    """Print tables."""
    for table in tables:
        console().print(table)


class PlainTable(Table):
    """A table below lines of a title, whose words are shown as they are; a Text may have a style."""

    def __init__(self, *title: str, **options):
        heading = Text("\n".join(map(plain, title)), style="table.title") if title else None
        super().__init__(title=heading, title_justify="left", box=SIMPLE_HEAD, **options)

    def add_row(self, *cells: str | Text) -> None:
        """A cell for each column."""
        shown: list[RenderableType] = [Text(plain(c)) if isinstance(c, str) else c for c in cells]
        super().add_row(*shown)
