"""Damage done to files: bytes, words, HDF5 structure, JSON, arrays of NumPy.

Everything follows from the random generator that is given. Each function returns what it did in words; those
for HDF5 also tell whether a reader may take the result: LEGAL values are such as a sound file could hold.
"""

import io
import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from eqpot import hdf5
from eqpot.config import DynamicsConfig, LossConfig, ModelConfig, TrainConfig
from eqpot.dynamics import restart

LEGAL, ILLEGAL = True, False
HUGE = 10**9  # rows that are declared and not there
NESTED = 3000

# What a word, a setting or a name may be replaced by. Long runs are no crash: no large and plausible counts.
NUMBERS = ("0", "-0", "-1", "1e6", "1e9", "1e30", "1e300", "-1e300", "1e-300", "1e-7", "nan", "inf", "-inf")
NUMBERS += ("1.5", "3", "9999999999999999999", "0x10", "1_0", "1e", "+", ".", "٣", "1" * 5000)
WORDS = ("", " ", "x", "Xx", "true", "None", "[]", "{}", "()", "'", '"', "=", "*", "%s", "{0}", "./x/..", "~")
WORDS += ("\x1b[31mred\x1b[0m", "q[/b]", "[bold]", "[link=x]", "\x00", "\ufeff", "\u2028", "ü", "\udcff")
WORDS += ("a" * 300, "\x1b]0;title\x07", "\r", "\t", "#", "é" * 40)


class Malicious:
    """What unpickles by opening a file for writing, where it may."""

    def __reduce__(self):
        return open, ("unpickled", "w")


def choose(random: np.random.Generator, options):
    return options[int(random.integers(len(options)))]


# ------------------------------------------------------------ bytes and words


def damage_bytes(random: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """One to three pieces of damage."""
    found = []
    for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
        data, text = choose(random, BYTES)(random, data)
        found.append(text)
    return data, ", ".join(found)


def _place(random, data: bytes) -> tuple[int, int]:
    """Where a piece begins and ends; often near the start or the end, where headers are."""
    size = len(data)
    begin = int(choose(random, (random.integers(size + 1), random.integers(min(size, 100) + 1))))
    return begin, min(size, begin + int(2 ** random.uniform(0, 9)))


def _flipped(random, data):
    found = bytearray(data)
    places = random.integers(0, max(len(data), 1), int(random.integers(1, 9)))
    for place in places if data else ():
        found[place] ^= 1 << int(random.integers(8))
    return bytes(found), f"bits flipped in bytes {sorted(map(int, places))}"


def _overwritten(random, data):
    begin, end = _place(random, data)
    filler = choose(random, (b"\0", b"\xff", b"\x7f", random.bytes(1), None))
    piece = random.bytes(end - begin) if filler is None else filler * (end - begin)
    return data[:begin] + piece + data[end:], f"bytes {begin} to {end} overwritten by {filler or 'noise'}"


def _inserted(random, data):
    begin, end = _place(random, data)
    return data[:begin] + random.bytes(max(end - begin, 1)) + data[begin:], f"bytes inserted at {begin}"


def _deleted(random, data):
    begin, end = _place(random, data)
    return data[:begin] + data[end:], f"bytes {begin} to {end} deleted"


def _truncated(random, data):
    size = int(choose(random, (0, 1, random.integers(len(data) + 1), max(len(data) - 1, 0), len(data) // 2)))
    return data[:size], f"cut to {size} bytes"


def _swapped(random, data):
    size = max(1, len(data) // int(random.integers(2, 200)))
    blocks = [data[k : k + size] for k in range(0, len(data), size)]
    a, b = (int(random.integers(max(len(blocks), 1))) for _ in range(2))
    if blocks:
        blocks[a], blocks[b] = blocks[b], blocks[a]
    return b"".join(blocks), f"blocks {a} and {b} of {size} bytes swapped"


def _repeated(random, data):
    begin, end = _place(random, data)
    return data[:end] + data[begin:end] * int(random.integers(1, 50)) + data[
        end:
    ], f"{begin} to {end} repeated"


def _extended(random, data):
    return data + random.bytes(int(random.integers(1, 5000))), "noise appended"


BYTES = (_flipped, _flipped, _overwritten, _inserted, _deleted, _truncated, _swapped, _repeated, _extended)


def damage_text(random: np.random.Generator, text: str) -> tuple[str, str]:
    """Words exchanged, lines lost, doubled or out of order, once or a few times."""
    found = []
    for _ in range(int(random.choice([1, 1, 1, 2, 4]))):
        lines = text.split("\n")
        k = int(random.integers(len(lines)))
        act = int(random.integers(10))
        if act == 0:
            found.append(f"line {k} lost")
            del lines[k]
        elif act == 1:
            found.append(f"line {k} doubled")
            lines.insert(k, lines[k])
        elif act == 2:
            other = int(random.integers(len(lines)))
            found.append(f"lines {k} and {other} swapped")
            lines[k], lines[other] = lines[other], lines[k]
        elif act == 3:
            found.append(f"line {k} in other letters")
            lines[k] = choose(random, (str.upper, str.lower, str.swapcase, str.strip))(lines[k])
        else:
            words = list(re.finditer(r"[\w.+-]+|\S", lines[k]))
            new = choose(random, NUMBERS + WORDS)
            if words:
                word = choose(random, words)
                found.append(f"line {k}: {word[0][:30]!r} is {new[:30]!r}")
                lines[k] = lines[k][: word.start()] + new + lines[k][word.end() :]
            else:
                lines[k] = new
                found.append(f"line {k} is {new[:30]!r}")
        text = "\n".join(lines)
    return text, ", ".join(found)


def damage_file(random: np.random.Generator, path: Path, text: bool) -> str:
    """A file's bytes, or its words where it holds text."""
    data = path.read_bytes()
    if text and random.random() < 0.75:
        changed, said = damage_text(random, data.decode())
        path.write_bytes(changed.encode(errors="surrogatepass"))
    else:
        changed, said = damage_bytes(random, data)
        path.write_bytes(changed)
    return f"{path.name}: {said}"


# ------------------------------------------------------------ JSON

VALUES = (None, True, False, "", "x", "nan", [], {}, [1], {"a": 1}, 0, -1, 2.5, 10**9, 2**63, -(2**70), 1e308)
VALUES += (float("nan"), float("inf"), -float("inf"), [[[[]]]], "\x1b[31m", "[/b]", "a" * 3000, 1e-300)
# Files of before lack these.
LATER = {key for table in (ModelConfig, LossConfig, TrainConfig, DynamicsConfig) for key in table.later}
LATER |= set(restart.LATER)
# Keys that may be missing, or hold more than one kind of value, and free text.
LOOSE = {"max_time", "shifts", "scale", "end_temperature", "length", "command", "first_conserved"}
LOOSE |= {"isolated_atoms", "valid_data", "valid_hash", "best_rmse", "provenance"}


def damage_json(random: np.random.Generator, text: str) -> tuple[str, str, bool]:
    """One value lost, added, exchanged, or the text itself damaged."""
    content = json.loads(text)
    act = int(random.integers(12))
    if act == 0:
        changed, said = damage_bytes(random, text.encode())
        changed = changed.decode(errors="replace")
        return changed, f"JSON: {said}", _legal_json(changed, content)
    if act == 1:
        new = choose(
            random, ("[" * NESTED, '{"a":' * NESTED, "1" * 5000, "[" * NESTED + "]" * NESTED, "", "NaN")
        )
        return new, f"JSON is {new[:10]!r}...", ILLEGAL
    path = choose(random, list(_paths(content)))
    name = ".".join(map(str, path))
    *parents, last = path
    owner = content
    for key in parents:
        owner = owner[key]
    legal = any(key in LOOSE for key in path if isinstance(key, str))
    if act == 2:
        del owner[last]
        return json.dumps(content), f"JSON: {name} lost", legal or last in LATER
    if act == 3 and isinstance(owner, dict):
        owner[choose(random, ("zzz", "", "\x1b[31m", last + "x"))] = choose(random, VALUES)
        return json.dumps(content), f"JSON: a key beside {name} added", LEGAL
    if act == 4:
        new = choose(random, ("1" * 5000, "[" * NESTED + "]" * NESTED, "1e999", "-" + "9" * 30))
        owner[last] = "@@"
        return json.dumps(content).replace('"@@"', new), f"JSON: {name} is {new[:10]}...", legal
    old, new = owner[last], deepcopy(choose(random, VALUES))
    owner[last] = new
    return json.dumps(content), f"JSON: {name} is {str(new)[:20]!r}", legal or _alike(old, new)


def _legal_json(changed: str, content: Any) -> bool:
    """A digit flipped in JSON makes another number, a letter another text, both legal; a key lost is not."""
    try:
        return list(_paths(json.loads(changed))) == list(_paths(content))
    except (ValueError, RecursionError):
        return ILLEGAL


def _paths(value: Any, above: tuple = ()):
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in entries:
        yield (*above, key)
        yield from _paths(inner, (*above, key))


def _alike(old: Any, new: Any) -> bool:
    """Whether a value is of the other's kind, and finite."""
    if isinstance(old, bool) or isinstance(new, bool):
        return isinstance(old, bool) and isinstance(new, bool)
    if isinstance(old, int | float) and isinstance(new, int | float):
        return bool(np.isfinite(float(new)))
    return type(old) is type(new)


# ------------------------------------------------------------ HDF5


def damage_hdf5(random: np.random.Generator, path: Path, optional: tuple[str, ...]) -> tuple[str, bool]:
    """Write an own file anew, with a checksum or without, and one thing in it that is not as it was.

    optional: arrays that a file may lack.
    """
    image = io.BytesIO(path.read_bytes())
    path.unlink()
    sealed = random.random() < 0.6
    with h5py.File(image, "r") as old, h5py.File(path, "w", userblock_size=sealed * hdf5.BLOCK) as new:
        for key in old.attrs:
            new.attrs[key] = old.attrs[key]
        for key in old:
            old.copy(key, new)
        said, legal = _damage_one(random, new, path, optional)
    if sealed:
        data = bytearray(path.read_bytes())
        hdf5.seal(memoryview(data))
        path.write_bytes(data)
    return f"{path.name}{'' if sealed else ', no checksum'}: {said}", legal


def _damage_one(random, file: h5py.File, path: Path, optional) -> tuple[str, bool]:
    names: list[str] = []
    file.visititems(lambda name, x: names.append(name) if isinstance(x, h5py.Dataset) else None)
    if random.random() < 0.3:
        return _damage_attribute(random, file)
    name, act = choose(random, names), choose(random, ACTS)
    text, legal = act(random, file, name, path)
    legal |= act is _lost and name in optional
    legal |= act is _filled and (name, text) in UNKNOWN
    return f"{name}: {text}", legal


# labels that a frame may lack
UNKNOWN = {(name, "all numbers are nan") for name in ("energy", "forces", "stress")}
UNKNOWN.add(("energy", "a number is nan"))
ATTRIBUTES = (0, -1, True, np.nan, np.inf, 1e300, 2.0**-1060, 2**62, 1 + 2j, "", "x", "\x1b[31m", "[/b]")
ATTRIBUTES += (b"\xff\xfe", np.void(b"abc"), np.zeros((2, 2)), ["a", "b"], h5py.Empty("f8"))
DTYPES = ["i1", "i8", "u1", "f2", "f4", "f8", ">f8", "c16", "?"]
DTYPES += ["text", "compound", "vlen", "opaque", "reference"]
LINKS = ("soft", "dangling", "external", "missing", "fifo", "virtual", "gone", "raw", "group", "cycle")


def _damage_attribute(random, file: h5py.File) -> tuple[str, bool]:
    key = choose(random, sorted(file.attrs))
    value = file.attrs[key]
    known = key in ("format", "version", "config", "dtype", "mean_neighbours", "content", "provenance")
    legal = ILLEGAL if known else LEGAL
    if isinstance(value, str) and value.startswith("{") and random.random() < 0.8:
        text, said, legal = damage_json(random, value)
        file.attrs[key] = np.void(text.encode()) if "\0" in text else text
        return f"attribute {key}: {said}", legal or key == "provenance"
    if random.random() < 0.3:
        del file.attrs[key]
        return f"attribute {key} lost", legal
    new = choose(random, ATTRIBUTES)
    del file.attrs[key]
    try:
        file.attrs[key] = new
    except (TypeError, ValueError):
        return f"attribute {key} lost", legal
    number = key == "mean_neighbours" and isinstance(new, int | float) and new is not True
    return f"attribute {key} is {new!r}", legal or (number and bool(np.isfinite(new)) and new > 0)


def _lost(random, file, name, path):
    if random.random() < 0.3:
        file.move(name, choose(random, (name + "x", name.upper(), "zzz", f"deep/er/{name}")))
        return "renamed", ILLEGAL
    del file[name]
    return "lost", ILLEGAL


def _replaced(file, name, data, **options) -> None:
    del file[name]
    file.create_dataset(name, data=data, **options)


def _retyped(random, file, name, path):
    old = file[name][()]
    kind = choose(random, DTYPES)
    with np.errstate(all="ignore"):
        shape = np.shape(old)
        if kind == "text":
            new, options = np.full(shape, "1.0", object), {"dtype": h5py.string_dtype()}
        elif kind == "compound":
            new, options = np.zeros(shape, [("a", "f8"), ("b", "i4")]), {}
        elif kind == "vlen":
            new, options = np.empty(shape or (1,), object), {"dtype": h5py.vlen_dtype(np.float64)}
            new[...] = [np.zeros(3)] * 0 if not new.size else np.frompyfunc(lambda _: np.zeros(3), 1, 1)(new)
        elif kind == "opaque":
            new, options = np.zeros(shape, "V7"), {}
        elif kind == "reference":
            new, options = np.full(shape, file.ref, object), {"dtype": h5py.ref_dtype}
        elif np.asarray(old).dtype.kind in "OSU":
            new, options = np.zeros(shape, kind), {}
        else:
            new, options = np.asarray(old).astype(kind), {}
    before = np.asarray(old).dtype
    _replaced(file, name, new, **options)
    # wider and narrower numbers of one kind are taken by readers that convert
    integers = before.kind in "iu" and new.dtype.kind in "iu"
    same = before.kind == new.dtype.kind if before.kind != "O" else kind == "text"
    return f"dtype {kind}", LEGAL if integers or same else ILLEGAL


def _reshaped(random, file, name, path):
    old = np.asarray(file[name][()])
    changes: dict[str, Callable] = {
        "an axis more": lambda x: x[None],
        "an axis more, at the end": lambda x: x[..., None],
        "flat": lambda x: x.reshape(-1),
        "transposed": lambda x: x.T,
        "one row less": lambda x: x[:-1] if x.ndim else x,
        "one row more": lambda x: np.concatenate([x, x[-1:]]) if x.ndim else x,
        "doubled": lambda x: np.concatenate([x, x]) if x.ndim else x,
        "a scalar": lambda x: x.reshape(-1)[0] if x.size else x,
        "empty": lambda x: x[:0] if x.ndim else x,
        "the first column": lambda x: x[..., 0] if x.ndim else x,
        "null": lambda x: h5py.Empty(x.dtype if x.dtype.kind != "O" else "f8"),
    }
    said = choose(random, list(changes))
    new = changes[said](old)
    same = not isinstance(new, h5py.Empty) and np.shape(new) == old.shape
    text = old.dtype.kind == "O" and not isinstance(new, h5py.Empty)
    _replaced(file, name, new, dtype=h5py.string_dtype() if text else None)
    return said, LEGAL if same else ILLEGAL


def _declared(random, file, name, path):
    """Rows that a few bytes of file claim to have."""
    old = np.asarray(file[name][()])
    rows = (HUGE, *old.shape[1:])
    shape = choose(random, (rows, (2**40,), (HUGE, HUGE), (*old.shape, HUGE), (5 * 10**7, 3)))
    dtype = h5py.string_dtype() if old.dtype.kind == "O" else old.dtype
    chunks = tuple(min(n, 1000) for n in shape)[:1] + tuple(min(n, 3) for n in shape[1:])
    del file[name]
    options = choose(random, ({"chunks": chunks}, {"chunks": chunks, "compression": "gzip"}, {}))
    try:
        file.create_dataset(name, shape, dtype, **options)
    except (ValueError, OSError):  # more than HDF5 addresses in one piece
        file.create_dataset(name, shape, dtype, chunks=chunks)
    return f"declared as {shape}", ILLEGAL


def _linked(random, file, name, path):
    old = np.asarray(file[name][()])
    kind = choose(random, LINKS)
    other = path.with_name("other.h5")
    data = old if old.dtype.kind != "O" else np.zeros(old.shape)
    if kind in ("external", "virtual"):
        with h5py.File(other, "w") as beside:
            beside["x"] = data
    del file[name]
    if kind == "soft":
        file["zzz"] = data
        file[name] = h5py.SoftLink("/zzz")
    elif kind == "dangling":
        file[name] = h5py.SoftLink("/nowhere")
    elif kind == "external":
        file[name] = h5py.ExternalLink(other.name, "/x")
    elif kind == "missing":
        file[name] = h5py.ExternalLink("nowhere.h5", "/x")
    elif kind == "fifo":
        os.mkfifo(path.with_name("fifo"))
        file[name] = h5py.ExternalLink("fifo", "/x")
    elif kind in ("virtual", "gone"):
        layout = h5py.VirtualLayout(data.shape, data.dtype)
        source = h5py.VirtualSource(other.name if kind == "virtual" else "nowhere.h5", "x", data.shape)
        if data.ndim:
            layout[...] = source
        file.create_virtual_dataset(name, layout)
    elif kind == "raw":
        secret = path.with_name("secret")
        secret.write_bytes(random.bytes(max(data.nbytes, 1)))
        file.create_dataset(name, data.shape, data.dtype, external=[(secret.name, 0, h5py.h5f.UNLIMITED)])
    elif kind == "group":
        file.create_group(name)["x"] = data
    else:
        file[name] = h5py.SoftLink("/" + name)
    # h5py gives a single number no storage outside: it is zero then, as it may be.
    return f"link: {kind}", LEGAL if kind == "raw" and not data.ndim else ILLEGAL


def _filled(random, file, name, path):
    """One number, or all, that no sound file has."""
    old = np.array(file[name][()])
    if old.dtype.kind == "f":
        value = choose(random, (np.nan, np.nan, np.inf, -np.inf))
    elif old.dtype.kind in "iu":
        value = choose(random, (np.iinfo(old.dtype).max, np.iinfo(old.dtype).min))
        if name in ("train_frames", "valid_frames", "numbers", "trajectory_head") and value == 0:
            return "not changed", LEGAL
    elif old.dtype.kind == "O":
        value = choose(random, WORDS)
        text = value.replace("\0", "x").encode(errors="surrogateescape")
        old.reshape(-1)[int(random.integers(old.size))] = text
        _replaced(file, name, old, dtype=h5py.string_dtype())
        return f"a text is {value!r}", LEGAL
    else:
        _replaced(file, name, ~old)
        return "inverted", LEGAL
    every = not old.ndim or random.random() < 0.3
    if every:
        old = np.full_like(old, value)
    else:
        old.reshape(-1)[int(random.integers(old.size))] = value
    _replaced(file, name, old)
    return f"{'all numbers are' if every else 'a number is'} {value}", ILLEGAL


def _changed(random, file, name, path):
    """Other numbers."""
    old = np.array(file[name][()])
    if old.dtype.kind == "f" and old.size:
        factor = choose(random, (1.001, -1.0, 0.0, 1e5, 1e30, 1e300, 1e-300))
        with np.errstate(all="ignore"):
            changed = (old * factor).astype(old.dtype)
        new = np.where(np.isfinite(changed), changed, old)
        if random.random() < 0.5:
            flat, k = old.copy().reshape(-1), int(random.integers(old.size))
            flat[k] = new.reshape(-1)[k]
            new = flat.reshape(old.shape)
        _replaced(file, name, new)
        return f"numbers times {factor}", LEGAL
    if old.dtype.kind in "iu" and old.size:
        flat = old.reshape(-1)
        k = int(random.integers(old.size))
        flat[k] = choose(random, (flat[k] + 1, 0, 1, 2, 118))
        _replaced(file, name, flat.reshape(old.shape))
        return f"number {k} is {flat[k]}", LEGAL
    return "not changed", LEGAL


def _added(random, file, name, path):
    new = choose(random, ("zzz", "\x1b[31mred", "q[/b]", "ü"))
    file[new] = choose(random, (np.zeros(3), "text", np.zeros((0, 3)), np.nan))
    return f"{new!r} added", LEGAL


ACTS = (_lost, _retyped, _reshaped, _declared, _linked, _filled, _filled, _changed, _added)


# ------------------------------------------------------------ arrays of NumPy


def damage_npy(random: np.random.Generator, array: np.ndarray) -> tuple[bytes, str]:
    """An array as the bytes of a .npy file, not as it was."""
    act = int(random.integers(9))
    if act == 0:
        dtype = choose(random, ("i1", "f4", "f2", "U4", "S3", "c16", "?", "V5", "M8[s]", ">f8", "f16", "O"))
        with np.errstate(all="ignore"):
            return _npy(_cast(array, dtype)), f"dtype {dtype}"
    if act == 1:
        rows = array.reshape(-1) if not array.ndim else array
        shapes = (array[None], array[..., None], array.reshape(-1), array.T, rows[:-1], rows[:0], rows[:1])
        return _npy(choose(random, shapes)), "shape"
    if act == 2:
        objects = np.empty(int(choose(random, (1, array.shape[0] if array.ndim else 1))), object)
        objects[:] = choose(random, (Malicious(), None, "x", {"a": 1}, 1.5))
        if random.random() < 0.5 and array.ndim:
            objects = np.empty(len(array), object)
            for k in range(len(array)):
                objects[k] = array[k]
        return _npy(objects), f"objects: {type(objects[0]).__name__}"
    if act == 3:
        shape = choose(random, ((HUGE,), (HUGE, 3), (2**62, 2**62), (10**7, 100, 3), (-1,), (0, 3)))
        return _header(array.dtype.str, shape), f"declared as {shape}"
    if act == 4:
        descr = choose(random, ("|O", "<f8\n", "(10000000,)f8", "<U1000000000", "", "x", "|V2147483647"))
        return _header(descr, array.shape) + array.tobytes(), f"descr {descr!r}"
    if act == 5 and array.dtype.kind in "f":
        new = array.copy()
        value = choose(random, (np.nan, np.inf, 1e300, 1e6, -1e30, 1e-300, 0.0))
        if random.random() < 0.5 or not new.ndim:
            new = np.full_like(new, value)
        else:
            new.reshape(-1)[int(random.integers(new.size))] = value
        return _npy(new), f"numbers of {value}"
    if act == 5 and array.dtype.kind in "iu":
        new = array.copy()
        info = np.iinfo(new.dtype)
        new.reshape(-1)[int(random.integers(new.size))] = choose(random, (info.max, info.min, 0, 119))
        return _npy(new), "another integer"
    data, said = damage_bytes(random, _npy(array))
    return data, said


def _cast(array, dtype):
    if dtype in ("V5", "O"):
        return np.zeros(array.shape, dtype)
    try:
        return array.astype(dtype)
    except (TypeError, ValueError):
        return np.zeros(array.shape, dtype)


def _npy(array) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def _header(descr: str, shape: tuple) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def damage_npz(random: np.random.Generator, path: Path, bomb: Path) -> str:
    """One array of an npz lost, renamed or damaged; or the archive's bytes; or one that unpacks to GB."""
    act = int(random.integers(40))
    if act < 8:
        return damage_file(random, path, text=False)
    if act == 8:
        path.write_bytes(bomb.read_bytes())
        return f"{path.name}: a few kB that unpack to GB"
    with np.load(path) as file:
        members = {key: _npy(file[key]) for key in file}
        name = choose(random, list(members))
        array = file[name]
    if act < 12:
        del members[name]
        said = "lost"
    elif act < 16:
        new = choose(
            random, ("zzz", "", "../x", "\x1b[31m", "q[/b]", name.upper(), "energy", "F", "pbc", "virial")
        )
        members[new] = members.pop(name)
        said = f"called {new!r}"
    elif act < 18:
        members["extra"] = pickle.dumps(Malicious())
        said = "beside bytes that are no array"
    else:
        members[name], said = damage_npy(random, array)
    with zipfile.ZipFile(path, "w", choose(random, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for key, data in members.items():
            archive.writestr(f"{key}.npy", data)
    return f"{path.name}: {name} {said}"


def write_bomb(path: Path, gigabytes: int) -> None:
    """An npz of positions that are all zero, packed some thousand times."""
    shape = (gigabytes * 10**9 // 24 // 3, 3, 3)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, head in (("pos", _header("<f8", shape)), ("z", _npy(np.array([8, 1, 1])))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(head)
                if name == "pos":
                    zeros = bytes(2**24)
                    left = 72 * shape[0]
                    while left:
                        left -= member.write(zeros[: min(left, len(zeros))])
