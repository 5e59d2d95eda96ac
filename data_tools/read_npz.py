"""Frames of npz files: MD17, rMD17, sGDML, or any with the usual names."""

from collections.abc import Sequence

import numpy as np

from eqpot.data_tools.arrays import arrays_of_npz, check_frames
from eqpot.data_tools.labels import QUANTITIES, WEIGHT, is_weight, meaning
from eqpot.data_tools.sources import SPELLINGS, Found, Frame, check_group
from eqpot.errors import UserError
from eqpot.structures.xyz import hints_at_a_cell, names_a_cell

# The key sets of the MD17 family, whose published files are in kcal/mol and Å without saying so
MD17_KEYS = {
    "MD17/sGDML npz": {"R", "z", "E", "F"},
    "rMD17 npz": {"coords", "nuclear_charges", "energies", "forces"},
}


def read_npz(path: str, keys: dict) -> Found:
    """All frames of a file."""
    arrays = arrays_of_npz(path)
    value = {
        name: _pick(path, arrays, name, keys.get(name)) for name in ("positions", "numbers", "cell", "pbc")
    }
    for name in ("positions", "numbers"):
        if value[name] is None:
            raise UserError(
                f"{path}: {name}: expected one of the keys {', '.join(SPELLINGS[name])}, "
                f"found {', '.join(arrays) or 'none'}; name it by --{name}-key"
            )
    positions, numbers = value["positions"], value["numbers"]
    if positions.ndim == 2 and numbers.shape == positions.shape[:1]:
        positions = positions[None]
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise UserError(f"{path}: positions: expected shape (frames, atoms, 3), found {positions.shape}")
    if not positions.size:
        raise UserError(f"{path}: positions: expected at least one frame, found none")
    check_frames(path, len(positions))
    _check_cell_names(path, arrays, value)
    count, atoms = len(positions), positions.shape[1:2]
    cell = value["cell"]
    cells = {(3, 3), (9,)} | ({(3,)} if cell is not None and cell.shape != (3, 3) else set())
    tensor = {(3, 3), (9,), (6,)}
    shapes = {
        "numbers": {atoms},
        "cell": cells,
        "pbc": {(3,)},
        "energy": {(), (1,)},
        "forces": {(*atoms, 3)},
        "stress": tensor,
        "virial": tensor,
    }
    geometry = {
        name: _per_frame(path, name, value[name], count, shapes[name], shared=name != "positions")
        for name in ("numbers", "cell", "pbc")
    }
    if geometry["pbc"] is None and geometry["cell"] is not None:
        geometry["pbc"] = [np.any(c) for c in geometry["cell"]]
    geometry = {name: column for name, column in geometry.items() if column is not None}
    check_group(path, keys, arrays)
    if "group" in keys:
        geometry["group"] = [
            _text(path, "group", np.asarray(g))
            for g in _per_frame(path, "group", arrays[keys["group"]], count, {()})
        ]
    frames = [
        Frame(positions=positions[k], **{name: column[k] for name, column in geometry.items()})
        for k in range(count)
    ]
    for quantity in QUANTITIES:
        _pick(path, arrays, quantity, keys.get(quantity), ())
    columns = {}
    for name, array in arrays.items():
        quantity = _npz_quantity(name, keys)
        if name in (keys.get("weight"), WEIGHT):
            column = _npz_column(path, name, array, count, {(), (1,)}, keys.get("weight") == name)
            columns[name] = [array] * count if column is None else column
        elif quantity:
            columns[name] = _npz_column(
                path, name, array, count, shapes[quantity], keys.get(quantity) == name
            )
        elif is_weight(name):
            columns[name] = [array] * count
    columns = {name: column for name, column in columns.items() if column is not None}
    hint = f"the keys there are: {', '.join(arrays)}"
    found = Found(path, "npz", frames, columns, letters=True, hint=hint)
    _npz_units(found, arrays)
    if "theory" in arrays:
        found.attrs["level_of_theory"] = _text(path, "theory", arrays["theory"])
    return found


def _check_cell_names(path: str, arrays: dict, value: dict) -> None:
    """UserError where a lattice has a name that is none of SPELLINGS, and would be passed over."""
    if value["cell"] is not None or (value["pbc"] is not None and not np.any(value["pbc"])):
        return
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf" or not array.size:
            continue
        first = array if array.size < 10 else array[0]  # of the frames
        if (names_a_cell(name) and np.any(array)) or hints_at_a_cell(name, first):
            raise UserError(
                f"{path}: cell: expected one of the keys {', '.join(SPELLINGS['cell'])}, found {name}; "
                f"name it by --cell-key {name}, or add pbc = False where nothing repeats"
            )


def _npz_quantity(name: str, keys: dict) -> str | None:
    """The label that an array is, or looks like."""
    named = [quantity for quantity in QUANTITIES if keys.get(quantity) == name]
    plain = [quantity for quantity in QUANTITIES if name in SPELLINGS[quantity]]
    found = meaning(name)
    return (named or plain or [found[0] if found else None])[0]


def _npz_column(path: str, name: str, array, count: int, shapes: set[tuple], named: bool) -> list | None:
    """The array by frames; None where it only looks like a label and is not one value for each."""
    try:
        return _per_frame(path, name, array, count, shapes)
    except UserError:
        if named or any(name in spellings for spellings in SPELLINGS.values()):
            raise
        return None


def _npz_units(found: Found, arrays: dict[str, np.ndarray]) -> None:
    """sGDML's newer files say their units; the rest of the MD17 family is known to be in kcal/mol."""
    family = next((name for name, names in MD17_KEYS.items() if names <= arrays.keys()), None)
    if family:
        found.kind = family
        found.energy_unit = "kcal/mol"
        if "e_unit" not in arrays:
            found.assumed = f"{family} keys: kcal/mol assumed, as such files are published (--energy-unit)"
    if "e_unit" in arrays:
        found.energy_unit = _text(found.name, "e_unit", arrays["e_unit"])
    if "r_unit" in arrays:
        found.length_unit = _text(found.name, "r_unit", arrays["r_unit"])


def _text(path: str, name: str, value: np.ndarray) -> str:
    value = value.item() if value.size == 1 else value.tolist()
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    try:
        text.lower()
    except SystemError as error:  # NumPy makes texts of what are no characters
        raise UserError(f"{path}: {name}: expected a text, found bytes that are none") from error
    return text


def _pick(
    path: str, arrays: dict, name: str, key: str | None, known: Sequence[str] | None = None
) -> np.ndarray | None:
    if key is not None:
        if key not in arrays:
            raise UserError(f"{path}: {name}: expected the key {key!r}, found {', '.join(arrays)}")
        return arrays[key]
    spellings = [spelling for spelling in (SPELLINGS[name] if known is None else known) if spelling in arrays]
    if len(spellings) > 1:
        raise UserError(
            f"{path}: {name}: expected one key, found {' and '.join(spellings)}; choose by --{name}-key"
        )
    return arrays[spellings[0]] if spellings else None


def _per_frame(
    path: str, name: str, array: np.ndarray | None, count: int, shapes: set[tuple], shared: bool = False
) -> list | None:
    """``array`` as ``count`` items, each of one of ``shapes``; one item stands for all where ``shared``."""
    if array is None:
        return None
    if array.shape[:1] == (count,) and array.shape[1:] in shapes:
        return list(array)
    if (shared or count == 1) and (array.shape in shapes or (name == "pbc" and array.size == 1)):
        return [array] * count
    expected = " or ".join(str((count, *shape)) for shape in sorted(shapes))
    alone = " or one such item for all" if shared else ""
    raise UserError(f"{path}: {name}: expected shape {expected}{alone}, found {array.shape}")
