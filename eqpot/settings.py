"""Tables of settings, whose fields know default, limits and one line of meaning; read from TOML."""

import dataclasses
import difflib
import json
import numbers
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from eqpot.errors import UserError
from eqpot.setting_values import HUGE as HUGE  # known by this address
from eqpot.setting_values import is_number

# Limits for what nobody means, so that a slip, or a file of a stranger's, is told before it fills the memory.
MANY = 10**9  # of anything counted
LARGEST_FILE = 30_000  # bytes; settings take a few thousand, and tomllib a minute for a key of 100,000
LONGEST = 80  # characters of a value in a message
# What NequIP, MACE and DeePMD call them.
ELSEWHERE = {
    "layers": "blocks",
    "num_layers": "blocks",
    "num_interactions": "blocks",
    "num_features": "features",
    "num_channels": "features",
    "channels": "features",
    "r_max": "cutoff",
    "rcut": "cutoff",
    "lr": "learning_rate",
}


def option(
    default: Any, comment: str, *, low=None, above=None, high=None, below=None, choices=None, parse=None
):
    """A config field: `low`/`high` are inclusive limits, `above`/`below` exclusive, `parse` an own check."""
    limits = {"low": low, "above": above, "high": high, "below": below}
    metadata = {"comment": comment, "choices": choices, "parse": parse, **limits}
    return dataclasses.field(default=default, metadata=metadata)


def shown(value: Any) -> str:
    """A value in a message."""
    try:
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError):  # thousands of digits, or of tables in each other
        return f"a huge {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def nearest(name: str, valid: Iterable[str]) -> str:
    """The tail of an error message that points at the valid name closest to `name`: the one that other
    programs call so, one that it is a part of, or one that is spelt alike."""
    valid, name = list(valid), name[:LONGEST]
    close = [key for key in valid if key == ELSEWHERE.get(name)]
    close = close or sorted((key for key in valid if name in key.split("_")), key=len)
    close = close or difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(valid)}"


def _check(field: dataclasses.Field, value: Any, where: str) -> Any:
    """`value` in the type of `field`, or UserError naming key, expected and found."""
    meta = field.metadata

    def refuse(expected: str):
        raise UserError(f"{where}: expected {expected}, found {shown(value)}")

    if meta["parse"] is not None:
        try:
            return meta["parse"](value)
        except ValueError as e:
            refuse(str(e))
    if meta["choices"] is not None:
        same_kind = isinstance(value, bool) == isinstance(meta["choices"][0], bool)
        if not same_kind or value not in meta["choices"]:
            hint = ""
            if isinstance(value, str) and isinstance(meta["choices"][0], str):
                close = difflib.get_close_matches(value[:LONGEST], meta["choices"], n=1, cutoff=0.4)
                hint = f" (nearest: {json.dumps(close[0])})" if close else ""
            refuse(" or ".join(json.dumps(c) for c in meta["choices"]) + hint)
        return type(meta["choices"][0])(value)
    if field.type is bool:
        return value if isinstance(value, bool) else refuse("true or false")
    if field.type is str:
        return value if isinstance(value, str) else refuse("a text")
    kind, name = (numbers.Integral, "an integer") if field.type is int else (numbers.Real, "a number")
    words = {"low": "at least", "above": "greater than", "high": "at most", "below": "less than"}
    limits = [f"{word} {meta[key]}" for key, word in words.items() if meta[key] is not None]
    inside = (
        isinstance(value, kind)
        and is_number(value)
        and (meta["low"] is None or value >= meta["low"])
        and (meta["above"] is None or value > meta["above"])
        and (meta["high"] is None or value <= meta["high"])
        and (meta["below"] is None or value < meta["below"])
    )
    return field.type(value) if inside else refuse(" ".join([name, " and ".join(limits)]).strip())


class Table:
    """What the three tables share. Construction checks every value."""

    section: str
    later: Mapping[str, Any] = {}  # settings that files of older versions lack, and what they then were

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _check(field, getattr(self, field.name), self.called(field.name))
            object.__setattr__(self, field.name, value)

    @classmethod
    def called(cls, key: str) -> str:
        """What messages call a setting."""
        return f"{cls.section}.{key}"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From a mapping of keys to values; UserError at an unknown key or a bad value."""
        valid = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in valid:
                raise UserError(f"{cls.called(key[:LONGEST])}: unknown key, {nearest(key, valid)}")
        return cls(**values)

    @classmethod
    def from_file(cls, values: Mapping[str, Any]) -> Self:
        """From what `to_dict` wrote into a file; UserError where one is missing, but for those `later`."""
        missing = cls._missing(values)
        if missing:
            raise UserError(f"{cls.called(missing[0])}: expected a setting, found none")
        return cls.from_dict(cls.completed(values))

    @classmethod
    def _missing(cls, values: Mapping[str, Any]) -> list[str]:
        names = [field.name for field in dataclasses.fields(cls)]
        return [name for name in names if name not in values and name not in cls.later]

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """A table that lacks nothing but settings added later, as older versions wrote it, with what these
        did; any other as it is."""
        return dict(values) if cls._missing(values) else {**cls.later, **values}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """One line per key, each with its comment."""
        lines = [
            (f"{f.name} = {_toml_value(getattr(self, f.name))}", f.metadata) for f in dataclasses.fields(self)
        ]
        width = min(max(len(line) for line, _ in lines), 36)
        text = [f"[{self.section}]"]
        for line, meta in lines:
            choices = meta["choices"]
            among = "" if choices is None else ": " + " | ".join(_toml_value(c).strip('"') for c in choices)
            text.append(f"{line:<{width}}  # {meta['comment']}{among}")
        return "\n".join(text) + "\n"


def _toml_key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file's content; UserError at a missing or broken one, and what is too long to be settings."""
    try:
        found = os.stat(path)  # before it is opened: a pipe would wait for somebody to write
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a device or a pipe"
        raise UserError(f"{path}: expected a TOML file, found {what}")
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as e:
        raise UserError(f"{path}: cannot be read: {e.strerror or e}") from e
    if len(content) > LARGEST_FILE:
        raise UserError(f"{path}: expected settings of at most {LARGEST_FILE} bytes, found more")
    try:
        return _toml(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not valid TOML: expected text in UTF-8") from None
    except ValueError as e:
        raise UserError(f"{path}: not valid TOML: {e}") from None


def _toml(text: str) -> dict[str, Any]:
    """ValueError where it is no TOML, or has more than Python reads."""
    if len(text) > LARGEST_FILE:
        raise ValueError("too long")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("tables or lists too deep in each other") from None


def parse_setting(text: str) -> tuple[str, str, Any]:
    """`model.cutoff=4` -> ("model", "cutoff", 4); a value that is no TOML is taken as text."""
    key, equals, value = text.partition("=")
    table, dot, name = key.strip().partition(".")
    if not (equals and dot and name):
        raise UserError(f"--set {text[:LONGEST]}: expected table.key=value, such as model.cutoff=4")
    try:
        return table, name, _toml(f"value = {value.strip()}")["value"]
    except ValueError:
        return table, name, value.strip()
