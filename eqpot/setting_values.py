"""Values of settings that are more than a number or a word: checked, in the form that they are kept in."""

import math
import numbers
import re
from collections.abc import Mapping
from typing import Any

HUGE = 1e12  # of any number, so that a slip is told
MOST_STEPS = 10**12
FROZEN = "embedding|radial|blocks|block[1-9][0-9]{0,3}|readout"  # groups of weights, as patterns


def is_number(value: Any) -> bool:
    """Whether it is one, finite as a float."""
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def shifts(value: Any) -> Any:
    """Of `train.shifts`."""
    expected = '"least_squares", "parent" or a table of isolated-atom energies in eV such as {H = -13.6}'
    if value in ("least_squares", "parent"):
        return value
    if not isinstance(value, Mapping) or not value:
        raise ValueError(expected)
    from ase.data import atomic_numbers

    if not all(k in atomic_numbers and k != "X" and is_number(v) and abs(v) < HUGE for k, v in value.items()):
        raise ValueError(expected)
    return {k: float(v) for k, v in value.items()}


def scale(value: Any) -> Any:
    """Of `train.scale`."""
    if value == "force_rms":
        return value
    if is_number(value) and 0 < value < HUGE:
        return float(value)
    raise ValueError('"force_rms" or a positive number in eV')


def group_weights(value: Any) -> Any:
    """Of `loss.group_weights`."""
    if value == "none":
        return value
    if isinstance(value, Mapping) and value and all(is_number(v) and 0 <= v < HUGE for v in value.values()):
        return {str(k): float(v) for k, v in value.items()}
    raise ValueError('"none" or a table of weights from 0 by group such as {surface = 2.0, bulk = 0.5}')


def freeze(value: Any) -> tuple[str, ...]:
    """Of `train.freeze`: a list, or a text with commas."""
    names = value.split(",") if isinstance(value, str) else value
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        names = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
        if all(re.fullmatch(FROZEN, name) for name in names):
            return names
    raise ValueError("a list of embedding, radial, blocks (or block1, block2, ...), readout")


def end_temperature(value: Any) -> float | None:
    """Of `md.end_temperature`."""
    if value is not None and not (is_number(value) and 0 < value < HUGE):
        raise ValueError("a temperature above 0 K")
    return None if value is None else float(value)


def band(value: Any) -> float:
    """Of `md.temperature_band`."""
    if not is_number(value) or not (value == 0 or 1 < value < HUGE):
        raise ValueError("a factor above 1, or 0 for no limits")
    return float(value)


def parse_time(value: Any) -> float:
    """Seconds in `90`, `"90s"`, `"45m"`, `"2h"` or `"1h30m"`; 0 for an empty text. Raises ValueError."""
    if is_number(value):
        seconds = float(value)
    else:
        text = str(value).replace(" ", "").lower()
        if not re.fullmatch(r"(\d+(\.\d*)?[hms])*|\d+(\.\d*)?", text):
            raise ValueError
        unit = {"h": 3600, "m": 60, "s": 1, "": 1}
        seconds = sum(float(n) * unit[u] for n, _, u in re.findall(r"(\d+(\.\d*)?)([hms]?)", text))
    if not 0 <= seconds <= HUGE:
        raise ValueError
    return seconds


def duration(value: Any) -> Any:
    try:
        parse_time(value)
    except ValueError:
        raise ValueError('a time such as "90s", "45m", "2h" or a number of seconds (0: no limit)') from None
    return value


def auto(value: Any) -> Any:
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError('"auto", true or false')


def parse_length(value: Any, timestep: float) -> int:
    """Steps of `timestep` fs, at least one, in `40000`, `"500fs"`, `"20ps"` or `"1ns"`. Raises ValueError."""
    found = re.fullmatch(r"(\d+|(?:\d+\.?\d*|\.\d+)(?= *[fpn]s)) *(fs|ps|ns)?", str(value))
    if not found or float(found[1]) == 0:
        raise ValueError
    unit = {None: timestep, "fs": 1.0, "ps": 1e3, "ns": 1e6}[found[2]]
    steps = float(found[1]) * unit / timestep
    if steps > MOST_STEPS:
        raise ValueError
    return max(1, round(steps))


def length(value: Any) -> str:
    try:
        parse_length(value, 1.0)
    except ValueError:
        raise ValueError(
            'a number of steps above 0, or a time such as "500fs", "20ps", "1ns", '
            f"at most {MOST_STEPS:.0e} steps"
        ) from None
    return str(value)
