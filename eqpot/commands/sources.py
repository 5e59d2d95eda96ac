"""Frames for a fit: a data set file, or whatever `eqpot data convert` takes, read and told as there."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eqpot.errors import UserError

if TYPE_CHECKING:
    from eqpot.structures.data import Dataset


def is_data_set(path: str) -> bool:
    """Whether a file is, or is called like, a data set file."""
    from eqpot.files import is_hdf5

    named = path.endswith((".h5", ".hdf5"))
    return named or (os.path.isfile(path) and is_hdf5(path))  # opening a pipe would wait


def frames(sources: Sequence[str], how: dict[str, Any]) -> "str | Dataset":
    """The path of a data set file alone; what any other sources hold, which is told.

    how: as of `eqpot.data_tools.convert.gather`.
    """
    if len(sources) == 1 and is_data_set(sources[0]):
        return sources[0]
    from eqpot.data_tools.convert import gather
    from eqpot.data_tools.told import contents, say, tell, terminal

    found = gather(sources, **how)
    tell(found)
    name = sources[0] + f" and {len(sources) - 1} more" * (len(sources) > 1)
    say(terminal(), f"{name}: {contents(found.dataset)}, in eV and Å")
    found.dataset.path = name
    return found.dataset


def check_used(sources: Sequence[str | None], options: dict[str, Any]) -> None:
    """UserError at options of `source_options` where nothing is converted; None among the sources is none."""
    given = next((name for name, value in options.items() if value not in (None, ())), None)
    if given and all(source is None or is_data_set(source) for source in sources):
        found = "a data set file" if any(sources) else "none"
        raise UserError(
            f"--{given.replace('_', '-')}: expected a source to be converted, such as an extxyz file, "
            f"found {found}"
        )
