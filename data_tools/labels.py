"""Which of a source's arrays are the labels: by name, and never by a guess between two that differ."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from eqpot.errors import UserError

QUANTITIES = ("energy", "forces", "stress", "virial")
_WORDS = {
    **dict.fromkeys(("energy", "energies"), "energy"),
    **dict.fromkeys(("force", "forces"), "forces"),
    **dict.fromkeys(("stress", "stresses"), "stress"),
    **dict.fromkeys(("virial", "virials", "vir"), "virial"),
}
# Plain labels in an npz; in a comment line E may be anything, and in Hartree
LETTERS = {"E": "energy", "F": "forces"}
WEIGHT = "config_weight"  # of a frame, as GAP and MACE call it
# Words that call the label beside them the reference itself
_REFERENCE = {"ref", "reference", "dft", "target"}

# A source's arrays: name -> its value in each frame, None where the frame has none
Columns = Mapping[str, list[Any]]


def words(name: str) -> list[str]:
    """Words of a name in small letters: REF_energy, refEnergy and ref-energy are alike."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def meaning(name: str) -> tuple[str, str] | None:
    """Quantity and origin that a name tells: REF_energy is ("energy", "ref"), energies is ("energy", "")."""
    if name in LETTERS:
        return LETTERS[name], "letter"
    found = words(name)
    quantities = {_WORDS[word] for word in found if word in _WORDS}
    if quantities == {"stress", "virial"}:  # one of them, in whichever's unit: to be told of, not taken
        return "stress", "virial"
    if len(quantities) != 1 or is_weight(name) or is_deviation(name):
        return None
    return quantities.pop(), "_".join(word for word in found if word not in _WORDS)


def is_weight(name: str) -> bool:
    """Whether a name is of weights: config_weight, energy_weight, DeePMD's atom_pref."""
    return not {"weight", "weights", "pref"}.isdisjoint(words(name))


def is_deviation(name: str) -> bool:
    """Whether a name is of deviations: energy_std, forces_std, as `eqpot predict` writes them."""
    return not {"std", "stddev", "variance"}.isdisjoint(words(name)[-1:])


def choose(
    source: str, columns: Columns, keys: Mapping[str, str], notes: list[str], letters: bool = False
) -> dict[str, str]:
    """The array of each of QUANTITIES and "weight" that is there; what is worth telling goes to ``notes``.

    A name given in ``keys`` is obeyed. Otherwise a plain name (energy, forces, virials; with ``letters`` E,
    F) is taken, or one that says reference (REF_energy, dft_forces). UserError, naming options that decide:
    two that differ, or energy and forces of different origin; one of ``keys`` that is not there.
    """
    meanings = {name: found for name in columns if (found := meaning(name))}
    if letters:
        meanings |= {name: (quantity, "") for name, quantity in LETTERS.items() if name in columns}
    # an origin with both is a method, whose labels are rivals of the plain ones
    energies, forces = ({o for q, o in meanings.values() if q == wanted} for wanted in ("energy", "forces"))
    methods = (energies & forces) - {"", "old"}
    chosen: dict[str, str] = {}
    for quantity in QUANTITIES:
        if quantity in keys:
            if keys[quantity] not in columns:
                there = ", ".join(columns) or "none"
                raise UserError(f"{source}: {quantity}: expected the key {keys[quantity]!r}, found {there}")
            chosen[quantity] = keys[quantity]
        elif not (quantity in ("stress", "virial") and {"stress", "virial"} & keys.keys()):
            named = meanings.get(keys.get("energy", ""), ("", ""))[1]
            rivals = [
                (_rank(origin, methods, named), name)
                for name, (of, origin) in meanings.items()
                if of == quantity and (not origin or _fits(quantity, columns[name]))
            ]
            rivals = [name for rank, name in sorted(rivals, key=lambda pair: pair[0]) if rank < _NEVER]
            if rivals and _rank(meanings[rivals[0]][1], methods, named) < _ASKED:
                chosen[quantity] = rivals[0]
                for other in rivals[1:]:
                    _agree(source, columns, quantity, rivals[0], other)
    _check_origins(source, chosen, keys, meanings, methods, notes)
    weight = _weight(source, columns, keys)
    _tell(columns, chosen, keys, meanings, notes, weight)
    if weight:
        chosen["weight"] = weight
    return chosen


_ASKED, _NEVER = 3, 4


def _rank(origin: str, methods: set[str], named: str) -> int:
    """0 for a plain name; from _ASKED on it is not taken unless named, from _NEVER on no rival either."""
    if not origin:
        return 0
    if _is_reference(origin):
        return 1
    if origin in methods:
        return 2 if origin == named else _ASKED
    return _NEVER


def _is_reference(origin: str) -> bool:
    return bool(origin) and set(origin.split("_")) <= _REFERENCE


def _fits(quantity: str, values: list[Any]) -> bool:
    """Whether the first value has the shape that the quantity has in a frame."""
    value = _numeric(next(value for value in values if value is not None))
    if value is None or quantity == "energy":
        return value is not None and value.size == 1
    if quantity == "forces":
        return value.ndim == 2 and value.shape[1] == 3
    return value.shape in {(6,), (9,), (3, 3)}


def _numeric(value: Any) -> np.ndarray | None:
    """As floats; None where it is no numbers."""
    try:
        found = np.asarray(value)
    except ValueError:  # ragged lists
        return None
    return found.astype(float) if found.dtype.kind in "iuf" else None


def _agree(source: str, columns: Columns, quantity: str, first: str, other: str) -> None:
    for k, (a, b) in enumerate(zip(columns[first], columns[other], strict=True)):
        if b is None or _alike(quantity, a, b):
            continue
        if a is None:
            found = f"{other} alone, which is {first} in other frames"
        elif np.size(a) == np.size(b) == 1:
            found = f"{first} = {np.ravel(a)[0]} and {other} = {np.ravel(b)[0]}"
        else:
            found = f"{first} and {other}, which differ"
        raise UserError(
            f"{source}: frame {k}, {quantity}: expected one, found {found}; "
            f"choose by --{quantity}-key {first} or --{quantity}-key {other}"
        )


def _alike(quantity: str, a: Any, b: Any) -> bool:
    """Equal but for rounding in a text file."""
    a, b = _numeric(a), _numeric(b)
    if a is None or b is None or a.size != b.size:
        return False
    size = 1.0 if quantity == "energy" else max(abs(a).max(initial=0), abs(b).max(initial=0))
    return np.allclose(a.ravel(), b.ravel(), rtol=1e-8, atol=1e-4 * size, equal_nan=True)


def _check_origins(source, chosen, keys, meanings, methods, notes) -> None:
    """Energy and forces of one method, or else as the options say."""
    if not {"energy", "forces"} <= chosen.keys():
        return
    names = {quantity: chosen[quantity] for quantity in ("energy", "forces")}
    origin = {quantity: meanings.get(name, ("", ""))[1] for quantity, name in names.items()}
    if origin["energy"] == origin["forces"]:
        return
    told = f"energy is {names['energy']}, forces are {names['forces']}"
    guessed = [quantity for quantity in names if quantity not in keys]
    if len(guessed) == 2 or any(origin[quantity] for quantity in guessed):
        raise UserError(
            f"{source}: expected energy and forces of one origin, found {' and '.join(names.values())}; "
            f"take them by --energy-key {names['energy']} --forces-key {names['forces']}, or others"
        )
    if guessed and any(_is_reference(o) or o in methods for o in origin.values() if o):
        notes.append(f"{told}: of different origin by their names")


def _weight(source: str, columns: Columns, keys: Mapping[str, str]) -> str:
    """The array of the frames' weights: the one that is named, or config_weight, if it has single numbers."""
    if "weight" in keys:
        if keys["weight"] not in columns:
            there = ", ".join(columns) or "none"
            raise UserError(f"{source}: weight: expected the key {keys['weight']!r}, found {there}")
        return keys["weight"]
    column = columns.get(WEIGHT, [])
    there = [_numeric(value) for value in column if value is not None]
    return WEIGHT if there and all(x is not None and x.size == 1 for x in there) else ""


def _tell(columns: Columns, chosen: dict[str, str], keys, meanings, notes: list[str], weight: str) -> None:
    taken = [f"{q} from {name}" for q, name in chosen.items() if q not in keys and meanings[name][1]]
    if taken:
        notes.append(f"taken: {', '.join(taken)}")
    unused = {}
    for name, (quantity, origin) in meanings.items():
        mine = chosen.get(quantity)
        there = [_numeric(value) for value in columns[name] if value is not None]
        if name in chosen.values() or all(value is None for value in there):
            continue
        if mine and all(
            b is None or _alike(quantity, a, b) for a, b in zip(columns[mine], columns[name], strict=True)
        ):
            continue  # holds nothing but what was taken
        if mine and quantity == "energy" and "free" in origin.split("_"):
            notes.append(_free_energy(columns, mine, name))
            continue
        some = len(there) < len(columns[name])
        unused[name + (f" (in {len(there)} of {len(columns[name])} frames)" if some else "")] = quantity
    if unused:
        options = ", ".join(f"--{quantity}-key" for quantity in dict.fromkeys(unused.values()))
        notes.append(f"look like labels and are not used: {', '.join(unused)} ({options})")
    if weight:
        lacking = sum(value is None for value in columns[weight])
        notes.append(
            f"weights of frames from {weight}"
            + f"; {lacking} of {len(columns[weight])} frames have none and weigh 1" * bool(lacking)
        )
    weights = [name for name in columns if is_weight(name) and name != weight]
    if weights:
        told = (name + _no_weights(columns[name]) * (name == WEIGHT) for name in weights)
        notes.append(f"weights in the data are not used: {', '.join(told)}")


def _no_weights(column: list) -> str:
    """Why a column of weights is none, in brackets."""
    for k, value in enumerate(column):
        number = None if value is None else _numeric(value)
        if value is not None and (number is None or number.size != 1):
            found = repr(str(value)[:40]) if number is None else f"{number.size} numbers"
            return f" (frame {k}: expected one number, found {found})"
    return ""


def _free_energy(columns: Columns, energy: str, free: str) -> str:
    """Smearing makes forces the derivatives of a free energy, which the energy at zero width is not."""
    pairs = [
        (_numeric(a), _numeric(b))
        for a, b in zip(columns[energy], columns[free], strict=True)
        if a is not None
    ]
    both = [abs(b - a).max() for a, b in pairs if a is not None and b is not None and a.size == b.size]
    differ = f"differ by up to {max(both):.3g}" if both else "are not in the same frames"
    return (
        f"{energy} and {free} {differ}: where electrons are smeared, forces belong to the "
        f"free energy; --energy-key {free} takes it"
    )
