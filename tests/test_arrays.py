"""Files of arrays: no pickle, and no more bytes than the file has and the memory allows."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from eqpot.data_tools.arrays import arrays_of_npz, read_npy
from eqpot.data_tools.convert import convert
from eqpot.errors import UserError

VALUES = np.arange(12.0).reshape(4, 3)


def npy(shape, kind="<f8", content=b"", fortran=False) -> bytes:
    """A file that says of itself what it is told."""
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def archive(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(save, tmp_path):
    arrays = {
        "a": VALUES,
        "fortran": np.asfortranarray(VALUES),
        "scalar": np.array(3),
        "text": np.array(["H", "He"]),
        "bytes": np.array(b"x"),
        "empty": np.zeros((0, 3)),
        "big": VALUES.astype(">f4"),
    }
    save(tmp_path / "a.npz", **arrays)
    found = arrays_of_npz(str(tmp_path / "a.npz"))
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
    np.save(tmp_path / "a.npy", arrays["fortran"])
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), VALUES)


LIES = {
    "more than there is": (10**12, 3, 3),
    "less than there is": (1,),
    "negative": (-4, -3),
    "beyond any number": (10**500,),
    "many of nothing": (10**12, 0, 7),
}


@pytest.mark.parametrize("case", LIES)
def test_shapes_that_lie(case, tmp_path):
    content = npy(LIES[case], content=VALUES.tobytes())
    (tmp_path / "a.npy").write_bytes(content)
    archive(tmp_path / "a.npz", a=content)
    for read, name in ((read_npy, tmp_path / "a.npy"), (arrays_of_npz, str(tmp_path / "a.npz"))):
        with pytest.raises(UserError, match="expected the bytes of float64 of shape") as caught:
            read(name)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy((4,))[:40],
        npy((4,), "<f8").replace(b"\x01\x00", b"\x07\x00", 1),
        npy((4,), "<U0"),
        b"x" * 99,
    ],
    ids=["empty", "magic", "cut", "version", "nothing wide", "text"],
)
def test_damaged_arrays(content, tmp_path):
    (tmp_path / "a.npy").write_bytes(content)
    archive(tmp_path / "a.npz", a=content)
    for read, name in ((read_npy, tmp_path / "a.npy"), (arrays_of_npz, str(tmp_path / "a.npz"))):
        with pytest.raises(UserError, match="a.np[yz]: ") as caught:
            read(name)
        assert "\n" not in str(caught.value)


class Flags:
    """What once talked the filtered unpickler into a dtype without its flags, and into memory."""

    def __reduce__(self):
        return (np.dtype, ("O",), (3, "|", None, None, None, -1, -1, 0))


@pytest.mark.parametrize("thing", [Flags(), [1, 2], None, VALUES], ids=["dtype", "list", "None", "array"])
def test_no_pickle_is_read(thing, tmp_path):
    values = np.empty(1, dtype=object)
    values[0] = thing
    np.savez(tmp_path / "a.npz", a=values)
    np.save(tmp_path / "a.npy", values)
    for read, name in ((read_npy, tmp_path / "a.npy"), (arrays_of_npz, str(tmp_path / "a.npz"))):
        with pytest.raises(UserError, match="expected numbers, found an object array, .*ase.io.write"):
            read(name)


def test_structures_of_objects_are_no_way_round(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy((1,), [("a", "|O"), ("b", "<f8")], bytes(16)))
    with pytest.raises(UserError, match="object array"):
        read_npy(tmp_path / "a.npy")


def test_bombs(tmp_path, monkeypatch):
    """Sizes are those that the archive declares, before a byte is inflated, and no more is inflated."""
    path = archive(tmp_path / "a.npz", a=npy((1 << 21,), content=bytes(1 << 24)))
    monkeypatch.setattr("eqpot.data_tools.arrays.size_limit", lambda: 1 << 20)
    with pytest.raises(UserError, match="a.npz: expected at most 0.00105 GB, .*, found 0.0168"):
        arrays_of_npz(str(path))
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.npz: cannot be read as npz .*Bad CRC"):
        arrays_of_npz(str(path))
    with open(tmp_path / "a.npy", "wb") as file:
        file.write(npy((1 << 40,)))
        file.truncate(file.tell() + (1 << 43))
    with pytest.raises(UserError, match="a.npy: expected at most"):
        read_npy(tmp_path / "a.npy")


def test_other_compressions_are_refused(tmp_path):
    path = archive(tmp_path / "a.npz", zipfile.ZIP_LZMA, a=npy((4, 3), content=VALUES.tobytes()))
    with pytest.raises(UserError, match="a.npy: expected the compression of NumPy"):
        arrays_of_npz(str(path))


def test_many_tiny_frames_are_too_many(tmp_path, monkeypatch):
    """A frame is some objects of Python, larger than its few bytes."""
    np.savez(tmp_path / "a.npz", pos=np.zeros((2000, 1, 3), np.int8), z=[1], energy=np.zeros(2000))
    monkeypatch.setattr("eqpot.data_tools.arrays.size_limit", lambda: 1 << 20)
    with pytest.raises(UserError, match="a.npz: 2000 frames: expected at most"):
        convert(tmp_path / "a.npz", tmp_path / "a.h5")


def test_only_files_and_folders_are_sources(tmp_path):
    for name in ("a.xyz", "a.npz", "a.traj"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: expected a file or a folder, found a device or a pipe"):
            convert(tmp_path / name, tmp_path / "a.h5")
    for name in ("type.raw", "set.000/coord.npy"):
        folder = tmp_path / name.replace("/", "_")
        (folder / "set.000").mkdir(parents=True)
        (folder / "type_map.raw").write_text("H")
        (folder / "type.raw").write_text("0")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/dev/zero")
        with pytest.raises(UserError, match="expected a file, found another thing"):
            convert(folder, tmp_path / "a.h5")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path):
    """Readers differ in which of the two they take."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for value in (1.0, 2.0):
            content = io.BytesIO()
            np.save(content, np.full(3, value))
            archive.writestr("energy.npy", content.getvalue())
    with pytest.raises(UserError, match=r"a.npz: energy: expected one array of that name, found two"):
        arrays_of_npz(str(tmp_path / "a.npz"))
