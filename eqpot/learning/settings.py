"""All settings of `eqpot learn`, each with its meaning; its options follow from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

from eqpot.config import DynamicsConfig, parse_time
from eqpot.errors import UserError
from eqpot.settings import HUGE, MANY, Table, is_number, option

AROUND = (0.5, 1.0, 1.2)  # of a single temperature, those of the dynamics
# what a resumed run may do differently without being another one
LIMITS = ("frames", "max_rounds", "max_time", "workers")
MOST_WORKERS = 1024


def _temperatures(value: Any) -> str:
    """Numbers joined by commas."""
    try:
        found = [float(part) for part in str(value).split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < kelvin < HUGE for kelvin in found):
        raise ValueError("a temperature above 0 K, or several joined by commas")
    return ",".join(f"{kelvin:g}" for kelvin in found)


def _time(value: Any) -> Any:
    try:
        parse_time(value)
    except ValueError:
        raise ValueError('a time such as "90s", "45m", "2h"') from None
    return value


def _pressure(value: Any) -> float | None:
    if value is None or (is_number(value) and abs(value) < HUGE):
        return None if value is None else float(value)
    raise ValueError("a pressure in bar")


@dataclass(frozen=True)
class LearnConfig(Table):
    """What is learned, from what, and when it ends."""

    section = "learn"
    later = MappingProxyType({"held_out": 0, "final_fit": 12})

    reference: str = option(
        "",
        "what computes energies and forces: emt, tblite:GFN2-xTB (or another method of tblite), or "
        "FILE.py:NAME, an ASE calculator or a function that returns one",
    )
    export: str = option(
        "", "instead: a folder that frames are written to as extxyz, to be computed elsewhere"
    )
    temperature: str = option(
        "300",
        "of the dynamics, K; several joined by commas, one T stands for 0.5, 1 and 1.2 T",
        parse=_temperatures,
    )
    pressure: Any = option(
        None, "bar; structures periodic in three directions then change their volume", parse=_pressure
    )
    length: str = option("1ps", "of each run of dynamics: steps, or a time")
    timestep: float = option(0.5, "of the dynamics, fs", low=1e-6, high=1000)
    target: float = option(25.0, "RMS error of force components to be reached, meV/Å", above=0, high=HUGE)
    members: int = option(4, "models of the committee", low=2, high=64)
    start: int = option(12, "frames to begin with, of each structure, shaken, strained", low=4, high=10_000)
    rattle: float = option(0.08, "largest mean shift of atoms in these, Å", above=0, high=1)
    strain: float = option(0.03, "largest strain in these, where periodic", low=0, high=0.3)
    per_round: int = option(24, "frames computed in a round, at most", low=4, high=MANY)
    fit_steps: int = option(1000, "of the optimizer in each round, for each model", low=1, high=MANY)
    final_fit: int = option(12, "times as many steps in the last fit", low=1, high=MANY)
    held_out: int = option(
        24,
        "frames of the finished committee's dynamics, counted among --frames but no more than a sixth of "
        "them, that nothing is fitted to: errors and deviations at the end are of these",
        low=0,
        high=MANY,
    )
    frames: int = option(300, "limit: frames computed in all", low=8, high=MANY)
    max_rounds: int = option(30, "limit: rounds of dynamics", low=1, high=MANY)
    max_time: str = option("", 'limit: time such as "45m", "2h"', parse=_time)
    workers: int = option(1, "processes that compute frames", low=1, high=MOST_WORKERS)
    seed: int = option(0, "of everything random", low=0, high=2**63 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.reference) == bool(self.export):
            found = "both" if self.reference else "neither"
            raise UserError(f"expected --reference CALCULATOR or --export DIR, found {found}")
        DynamicsConfig(length=self.length, timestep=self.timestep)  # which checks them

    @classmethod
    def called(cls, key: str) -> str:
        """As an option."""
        return f"--{key.replace('_', '-')}"

    @cached_property
    def temperatures(self) -> tuple[float, ...]:
        """Of the dynamics, K."""
        given = tuple(float(part) for part in self.temperature.split(","))
        return given if len(given) > 1 else tuple(part * given[0] for part in AROUND)

    @property
    def at_end(self) -> int:
        """Frames that are held out."""
        return min(self.held_out, self.frames // 6)

    @property
    def max_seconds(self) -> float:
        """`max_time` in seconds, infinite without a limit."""
        return parse_time(self.max_time) or math.inf


def only_limits(given: Sequence[str]) -> None:
    """UserError at a setting that a resumed run keeps."""
    for field in fields(LearnConfig):
        if field.name in given and field.name not in LIMITS:
            raise UserError(
                f"{LearnConfig.called(field.name)}: expected only limits and --workers with --resume, since "
                "a run keeps its other settings"
            )
