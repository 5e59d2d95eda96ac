"""What own files must hold: rules for their JSON and their arrays, each declared beside what writes them.

A rule for JSON is a dict of rules (these keys, all of them), a list of one rule (for all elements), or words
that say what is expected with the test for it.
"""

import json
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from eqpot.errors import UserError

Rule = dict[str, "Rule"] | list["Rule"] | tuple[str, Callable[[Any], bool]]

LONGEST_INTEGER = 40  # digits; the state of a random number generator has 39
KINDS = {np.integer: "integers", np.floating: "floating-point numbers", np.bool_: "booleans"}


def integer(low: int = 0, high: int = 2**63 - 1) -> Rule:
    """Of JSON, within limits."""
    return f"an integer from {low} to {high}", lambda value: type(value) is int and low <= value <= high


def number(low: float = -math.inf, above: float = -math.inf, high: float = math.inf) -> Rule:
    """Of JSON, finite and within limits."""
    limits = (("from", low), ("above", above), ("to", high))
    words = " ".join(["a finite number", *(f"{word} {x:g}" for word, x in limits if math.isfinite(x))])
    return words, lambda value: _is_number(value) and low <= value <= high and value > above


def either(rule: Rule, words: str, other: Any) -> Rule:
    """What a rule takes, or the value `other`, which is called `words`."""
    return f"{rule[0]} or {words}", lambda value: value == other or rule[1](value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


TEXT: Rule = ("a text", lambda value: isinstance(value, str))
TABLE: Rule = ("a table", lambda value: isinstance(value, dict))
HASH: Rule = ("a SHA-256", lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value)))
RANDOM: Rule = {
    "bit_generator": ("PCG64", lambda value: value == "PCG64"),
    "state": {"state": integer(0, 2**128 - 1), "inc": integer(0, 2**128 - 1)},
    "has_uint32": integer(0, 1),
    "uinteger": integer(0, 2**32 - 1),
}


def parse(text: Any, where: str) -> Any:
    """JSON of a file. UserError where it is none."""
    try:
        return json.loads(text, parse_int=_integer, parse_float=_float)
    except (TypeError, ValueError, RecursionError) as e:
        raise UserError(f"{where}: expected JSON, found what is none ({str(e)[:100]})") from e


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"a number beyond all floats, {text[:20]}")
    return value


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def check(value: Any, rule: Rule, where: str, later: Collection[str] = ()) -> None:
    """UserError, naming the place, where JSON breaks a rule; keys `later` may be missing: older files do."""
    if isinstance(rule, tuple):
        if not rule[1](value):
            raise UserError(f"{where}: expected {rule[0]}, found {_shown(value)}")
    elif isinstance(rule, list):
        if not isinstance(value, list):
            raise UserError(f"{where}: expected a list, found {_shown(value)}")
        for k, element in enumerate(value):
            check(element, rule[0], f"{where}[{k}]")
    else:
        check(value, TABLE, where)
        for key in [*rule, *value]:
            if key not in rule:
                raise UserError(f"{where}: expected only keys that this version knows, found {_shown(key)}")
            if key in value:
                check(value[key], rule[key], f"{where}.{key}")
            elif key not in later:
                raise UserError(f"{where}.{key}: expected {_words(rule[key])}, found none")


def _words(rule: Rule) -> str:
    return rule[0] if isinstance(rule, tuple) else "a list" if isinstance(rule, list) else TABLE[0]


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:80]}..."


@dataclass(frozen=True)
class Array:
    """What an array must be.

    dtype: str for texts, or what its dtype must be, or be a kind of; shape: lengths, or names, each of one
    length throughout a file; low, above, high: limits of its numbers, which are finite but for `unknown`,
    where NaN is legal; optional: may be missing.
    """

    dtype: type
    shape: tuple[int | str, ...] = ()
    low: float | None = None
    above: float | None = None
    high: float | None = None
    rising: bool = False
    unknown: bool = False
    optional: bool = False

    def check_form(
        self, dtype: np.dtype, shape: tuple[int, ...], lengths: dict[str, int], where: str
    ) -> None:
        """UserError at a wrong dtype or shape; `lengths`: those that names stand for, which it adds to."""
        if self.dtype is str:
            if dtype.kind not in "OS":  # the other kinds are numbers
                raise UserError(f"{where}: cannot be read as strings: found {dtype}")
        elif not np.issubdtype(dtype, self.dtype):
            wanted = KINDS.get(self.dtype, self.dtype.__name__)
            raise UserError(f"{where}: expected {wanted}, found {dtype}")
        if len(shape) == len(self.shape):
            for length, found in zip(self.shape, shape, strict=True):
                if isinstance(length, str):
                    lengths.setdefault(length, found)
        expected = tuple(lengths.get(length, length) for length in self.shape)
        if shape != expected:
            words = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
            raise UserError(f"{where}: expected shape ({words}), found {shape}")

    def check_values(self, values: np.ndarray, where: str) -> None:
        """UserError at numbers beyond the limits."""
        if self.dtype is str or not values.size:
            return
        if values.dtype.kind == "f" and not (np.isfinite(values) | (self.unknown & np.isnan(values))).all():
            found = "infinity" if self.unknown else "NaN or infinity"
            raise UserError(f"{where}: expected finite numbers, found {found}")
        for limit, words, value, wrong in (
            (self.low, "at least", values.min(), lambda x, y: x < y),
            (self.above, "above", values.min(), lambda x, y: x <= y),
            (self.high, "at most", values.max(), lambda x, y: x > y),
        ):
            if limit is not None and wrong(value, limit):
                raise UserError(f"{where}: expected numbers {words} {limit:g}, found {value:g}")
        if self.rising and (values[1:] <= values[:-1]).any():
            raise UserError(f"{where}: expected rising numbers, found others")
