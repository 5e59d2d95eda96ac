"""`--mpi`: ranks that find each other, of which the first one speaks for all."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from eqpot.errors import UserError
from eqpot.launcher import launched, world
from eqpot.stops import held

if TYPE_CHECKING:
    from eqpot.training.ranks import FirstRank


@contextmanager
def first_tells() -> Iterator[None]:
    """Errors that every rank meets are told by the first one; the others end in silence."""
    try:
        yield
    except (UserError, click.UsageError):
        if launched()[0] == 0:
            raise
        raise click.exceptions.Exit(2) from None


class OnceTold(click.Command):
    """A command of many ranks, whose usage errors are those of all."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with first_tells():
            return super().parse_args(ctx, args)


def first_rank(mpi: bool) -> tuple["FirstRank | None", str]:
    """What leads the others until the command ends, and a line about all; None and nothing of one rank.

    The others do not come back from here, but by `click.exceptions.Exit`.
    """
    if not mpi:
        _check_alone()
        return None, ""
    with held():  # who stops now is waited for in vain
        with first_tells():
            comm, found = world()
        from eqpot.training.ranks import FirstRank, serve

        if comm.rank:
            from eqpot.training.learner import Learner

            serve(comm, Learner.copy_of)
            raise click.exceptions.Exit(0)
        first = FirstRank(comm) if comm.size > 1 else None
        if first is not None:
            click.get_current_context().with_resource(closing(first))
        return first, found


def _check_alone() -> None:
    """UserError where a launcher has started others like this."""
    size = launched()[1]
    if size > 1:
        with first_tells():
            raise UserError(
                f"expected one process, found {size} of a launcher: give --mpi to share one fit among them; "
                "a fit for each is started by itself, such as by a job array"
            )
