"""HDF5 from anywhere: plain arrays within the file and nothing else, opened only when it is safe to.

libhdf5 loops, crashes or fills the memory on some damaged files. Own files begin with a checksum of what
follows, in HDF5's user block, which other programs skip. What has none, files of older versions and those of
strangers, is copied array by array by a process of its own, which may crash; `python -c` runs `main` there.
"""

import hashlib
import io
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import h5py
import numpy as np

from eqpot.errors import UserError
from eqpot.memory import memory

SIGNATURE = b"\x89HDF\r\n\x1a\n"
BLOCK, MARK = 512, b"eqpot: SHA-256"  # bytes before HDF5 begins, and the first of them
EXPANSION = 1100  # bytes of arrays that a byte of a file may declare; deflate makes 1032 at most
MOST_OBJECTS, DEEPEST = 10_000, 3
PLAIN = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF)
REFUSED, DAMAGED = 3, 4  # exit status of the process
SECONDS, PER_SECOND = 10, 1e7  # it gets, and one more for so many bytes
MEMORY = 2**31  # bytes it gets, and 40 for each of the file


class Damaged(Exception):
    """No HDF5 that can be opened, nor tells of its arrays; says why in brackets or after a semicolon."""


def is_hdf5(head: bytes) -> bool:
    """Whether a file that begins so is HDF5, from the signatures alone."""
    return head.startswith(MARK) or any(head.startswith(SIGNATURE, at) for at in (0, 512, 1024, 2048))


def seal(image: memoryview) -> None:
    """Fill in the user block of an HDF5 file."""
    image[:BLOCK] = _block(image)


def opened(data: bytes) -> io.BytesIO:
    """What can be opened of a file's content: itself where its checksum is right, a clean copy where it has
    none.

    Damaged where the checksum is wrong or there is no opening the file; UserError, without the file's name,
    as in `objects`, `attributes` and `values`.
    """
    if data.startswith(SIGNATURE):
        return _copied(data)
    if data[:BLOCK] != _block(data):
        raise Damaged(
            ", or one that was changed after eqpot wrote it (its SHA-256 differs); where that was meant, "
            f"`tail -c +{BLOCK + 1} FILE > NEW` leaves the checksum out"
        )
    return io.BytesIO(data)


def _block(image: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(memoryview(image)[BLOCK:]).hexdigest()
    return MARK + f" of what follows these {BLOCK} bytes:\n{digest}\n".encode().ljust(
        BLOCK - len(MARK), b"\0"
    )


def objects(file: h5py.File, size: int) -> dict[str, h5py.Dataset | h5py.Group]:
    """Arrays and groups of a file of `size` bytes, by name.

    UserError, without the file's name, at links, at arrays that lie outside of the file or need others'
    filters, at what is neither text nor number, and where they declare more than the file can hold.
    """
    found, groups, declared = {}, [("", file)], 0
    while groups:
        prefix, group = groups.pop()
        for key in group:
            name = prefix + key
            if group.id.links.get_info(key.encode("utf-8", "surrogateescape")).type != h5py.h5l.TYPE_HARD:
                raise UserError(f"{name}: expected an array of the file's own, found a link")
            item = found[name] = group[key]
            if isinstance(item, h5py.Group):
                groups.append((f"{name}/", item))
            else:
                declared += _declared(item, name)
            if len(found) > MOST_OBJECTS or name.count("/") > DEEPEST:
                raise UserError(f"expected a few arrays, found more than {MOST_OBJECTS} or groups in groups")
            if declared > min(EXPANSION * size + 2**20, memory() / 2):
                raise UserError(
                    f"{name}: expected arrays that fit a file of {size:,} bytes and the memory, "
                    f"found {declared:,} bytes"
                )
    return found


def _declared(item: Any, name: str) -> int:
    """Bytes that reading an array takes at most."""
    if not isinstance(item, h5py.Dataset):
        raise UserError(f"{name}: expected an array, found {type(item).__name__}")
    if item.shape is None:
        raise UserError(f"{name}: expected an array, found one without numbers or a shape")
    plan = item.id.get_create_plist()
    if plan.get_layout() not in PLAIN or plan.get_external_count():
        raise UserError(f"{name}: expected an array stored in the file, found one that lies elsewhere")
    if any(plan.get_filter(k)[0] not in FILTERS for k in range(plan.get_nfilters())):
        raise UserError(f"{name}: expected deflate, shuffle, fletcher32 or lzf at most, found another filter")
    if item.dtype.kind not in "biuf" and h5py.check_string_dtype(item.dtype) is None:
        raise UserError(f"{name}: expected numbers or texts, found {item.dtype}")
    return max(item.size or 0, math.prod(item.chunks or ())) * max(item.dtype.itemsize, 1)


def attributes(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Those of the file itself, numbers and texts. UserError, without the file's name, where there is no
    reading them."""
    for key in file.attrs:
        try:
            value = file.attrs[key]
        except Exception as error:
            raise UserError(f"attribute {key} cannot be read ({one_line(error)})") from error
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):  # bytes that are no text
            raise UserError(f"attribute {key}: expected text in UTF-8, found other bytes")
        yield key, value if isinstance(value, str | int | float) else str(value)


def values(item: h5py.Dataset, name: str) -> np.ndarray:
    """Of an array. UserError, beginning with `name`, where there is no reading it."""
    try:
        return np.asarray(item[()])
    except Exception as error:  # a damaged chunk surfaces as one of many types
        raise UserError(f"{name}: cannot be read as an array ({one_line(error)})") from error


def one_line(error: BaseException) -> str:
    """What an exception says."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _copied(data: bytes) -> io.BytesIO:
    """The content of a file without checksum, as another process read and wrote it."""
    seconds = SECONDS + len(data) / PER_SECOND
    code = f"import sys; sys.path[:] = {sys.path!r}; from eqpot.hdf5 import main; main({math.ceil(seconds)})"
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each would take some of the limited memory
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], input=data, capture_output=True, timeout=seconds, env=environment
        )
    except subprocess.TimeoutExpired:
        raise Damaged(f" (HDF5 spends more than {seconds:.0f} s on it)") from None
    text = done.stderr.decode("utf-8", "replace")
    if done.returncode == REFUSED:
        raise UserError(text)
    if done.returncode == DAMAGED:
        raise Damaged(f" ({text})")
    if done.returncode:
        raise Damaged(f" (HDF5 crashes on it, status {done.returncode})")
    return io.BytesIO(done.stdout)


def main(seconds: int) -> None:
    """Copy an HDF5 file from the standard input to the standard output, within limits of memory and time."""
    data = sys.stdin.buffer.read()
    with suppress(ImportError):  # no Windows
        import resource

        for limit, most in ((resource.RLIMIT_AS, MEMORY + 40 * len(data)), (resource.RLIMIT_CPU, seconds)):
            hard = resource.getrlimit(limit)[1]
            resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        sys.stdout.buffer.write(_copy(data))
    except Exception as error:  # of any type, as h5py raises them
        sys.stderr.buffer.write(one_line(error).encode("utf-8", "replace"))
        sys.exit(REFUSED if isinstance(error, UserError) else DAMAGED)


def _copy(data: bytes) -> memoryview:
    copy = io.BytesIO()
    with h5py.File(io.BytesIO(data)) as old, h5py.File(copy, "w") as new:
        for key, value in attributes(old):
            new.attrs[key] = value
        for name, item in objects(old, len(data)).items():
            if isinstance(item, h5py.Group):
                new.create_group(name)
            else:
                new.create_dataset(name, data=values(item, name), dtype=item.dtype)
    return copy.getbuffer()
