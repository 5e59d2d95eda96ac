"""The data set file: what is written is what is read, and what must not be read is refused by name."""

import os
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from toy import toy_dataset, unsealed

from eqpot.errors import UserError
from eqpot.structures.data import (
    Dataset,
    concatenate,
    read_dataset,
    shortest_distances,
    validate,
    write_dataset,
)

GEOMETRY = ("atom_ptr", "numbers", "positions", "cell", "pbc")
LABELS = ("energy", "forces", "stress")


def example() -> Dataset:
    """A water molecule without stress, a skewed left-handed crystal, and a slab without forces."""
    rng = np.random.default_rng(3)
    water = [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]
    crystal = [[0.1, 0, 0], [2.0, 1.9, 1.8]]
    cells = np.zeros((3, 3, 3))
    cells[1] = [[4.0, 0, 0], [1.5, 4.2, 0], [0.3, -0.4, -4.1]]
    cells[2] = [[3.0, 0, 0], [0.0, 3.1, 0], [0.0, 0, 0]]
    return Dataset(
        atom_ptr=np.array([0, 3, 5, 6]),
        numbers=np.array([8, 1, 1, 42, 73, 29], dtype=np.uint8),
        positions=np.array([*water, *crystal, [0.0, 0, 7]]),
        cell=cells,
        pbc=np.array([[False] * 3, [True] * 3, [True, True, False]]),
        energy=np.array([-14.2, np.pi, -3.0]),
        forces=np.vstack([rng.normal(size=(5, 3)), np.full((1, 3), np.nan)]),
        stress=np.stack([np.full((3, 3), np.nan), np.arange(9.0).reshape(3, 3), np.full((3, 3), np.nan)]),
        group=np.array(["Wasser 300 K", "", "ü"], dtype=object),
        attrs={"source": "by hand", "seed": 7},
    )


def assert_equal(a: Dataset, b: Dataset) -> None:
    for name in (*GEOMETRY, *LABELS, "group"):
        first, second = getattr(a, name), getattr(b, name)
        assert (first is None) == (second is None), name
        if first is not None:
            np.testing.assert_array_equal(first, second, err_msg=name)


# ---------------------------------------------------------------- round trips and views


def test_round_trip_is_exact(tmp_path):
    dataset = example()
    write_dataset(tmp_path / "a.h5", dataset)
    back = read_dataset(tmp_path / "a.h5")
    assert_equal(back, dataset)
    assert back.attrs == dataset.attrs
    assert back.path == str(tmp_path / "a.h5")
    assert back.hash == sha256((tmp_path / "a.h5").read_bytes()).hexdigest()
    dtypes = {name: getattr(back, name).dtype for name in GEOMETRY}
    assert dtypes == {
        "atom_ptr": np.int64,
        "numbers": np.uint8,
        "positions": np.float64,
        "cell": np.float64,
        "pbc": np.bool_,
    }


def test_labels_that_are_absent_stay_absent(tmp_path):
    dataset = replace(example(), energy=None, stress=None, group=None)
    write_dataset(tmp_path / "a.h5", dataset)
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == {*GEOMETRY, "forces"}
    assert_equal(read_dataset(tmp_path / "a.h5"), dataset)


def test_the_same_data_gives_the_same_bytes(tmp_path):
    for name in ("a.h5", "b.h5"):
        write_dataset(tmp_path / name, example())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize(
    "indices", [[2, 0], np.array([1]), slice(1, None), np.array([True, False, True]), [-1], [1, 1]], ids=str
)
def test_subset_takes_the_frames_in_order(indices):
    dataset = example()
    part = dataset.subset(indices)
    chosen = np.arange(3)[indices]
    assert len(part) == len(chosen) and part.attrs == dataset.attrs
    validate(part, "part")
    for k, frame in enumerate(chosen):
        here = slice(part.atom_ptr[k], part.atom_ptr[k + 1])
        there = slice(dataset.atom_ptr[frame], dataset.atom_ptr[frame + 1])
        for name in ("numbers", "positions", "forces"):
            np.testing.assert_array_equal(getattr(part, name)[here], getattr(dataset, name)[there])
        for name in ("cell", "pbc", "energy", "stress", "group"):
            np.testing.assert_array_equal(getattr(part, name)[k], getattr(dataset, name)[frame])


def test_concatenate_undoes_subset_and_fills_labels_with_nan():
    dataset = example()
    assert_equal(concatenate([dataset.subset([0]), dataset.subset([1, 2])]), dataset)
    bare = replace(dataset.subset([0]), stress=None, group=None, forces=None)
    both = concatenate([bare, dataset])
    assert np.isnan(both.forces[:3]).all() and np.isnan(both.stress[0]).all() and both.group[0] == ""
    np.testing.assert_array_equal(both.known("forces"), [False, True, True, False])
    np.testing.assert_array_equal(both.known("stress"), [False, False, True, False])
    np.testing.assert_array_equal(both.known("energy"), [True] * 4)


def test_atoms_carry_the_labels_in_the_order_of_ase():
    dataset = example()
    water, crystal, slab = (dataset.atoms(k) for k in range(3))
    assert water.get_chemical_formula() == "H2O" and not water.pbc.any()
    assert water.info["config_type"] == "Wasser 300 K" and "config_type" not in crystal.info
    assert set(water.calc.results) == {"energy", "forces"}
    assert set(slab.calc.results) == {"energy"}
    assert water.get_potential_energy() == -14.2
    np.testing.assert_array_equal(water.get_forces(), dataset.forces[:3])
    np.testing.assert_array_equal(crystal.cell, dataset.cell[1])
    # stress = 0 1 2 / 3 4 5 / 6 7 8: ASE's order is xx yy zz yz xz xy
    np.testing.assert_array_equal(crystal.get_stress(), [0, 4, 8, 5, 2, 1])
    np.testing.assert_array_equal(slab.pbc, [True, True, False])
    assert dataset.atoms(-1) == slab
    with pytest.raises(IndexError):
        dataset.atoms(3)


def test_composition_counts_atoms():
    dataset = example()
    assert dataset.species == (1, 8, 29, 42, 73)
    np.testing.assert_array_equal(dataset.composition(), [[2, 1, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(dataset.composition((8, 1)), [[1, 2], [0, 0], [0, 0]])


def test_shortest_distances_agree_with_ase():
    rng = np.random.default_rng(0)
    structures = []
    for pbc in (False, True, (True, False, True), (False, True, False)):
        for size in (2, 5, 12):
            cell = 5.0 * np.eye(3) + rng.uniform(-1, 1, (3, 3))
            structures.append(Atoms("C" * size, rng.uniform(-8, 8, (size, 3)), cell=cell, pbc=pbc))
    structures.append(Atoms("Cu", cell=[2.5, 9, 9], pbc=True))  # nearest to its own image
    structures.append(Atoms("C2", [[0, 0, 0], [0, 0, 40]]))
    shortest = shortest_distances(from_atoms(structures))
    expected = [neighbor_list("d", atoms, 50.0 if not atoms.pbc.any() else 9.0).min() for atoms in structures]
    np.testing.assert_allclose(shortest, expected, rtol=1e-12)
    assert shortest_distances(from_atoms([Atoms("He")])) == [np.inf]


def from_atoms(structures: list[Atoms]) -> Dataset:
    return Dataset(
        atom_ptr=np.concatenate([[0], np.cumsum([len(a) for a in structures])]),
        numbers=np.concatenate([a.numbers for a in structures]).astype(np.uint8),
        positions=np.concatenate([a.positions for a in structures]),
        cell=np.array([a.cell.array * a.pbc[:, None] for a in structures]),
        pbc=np.array([a.pbc for a in structures]),
    )


# ---------------------------------------------------------------- what is refused


def put(name, where, value):
    """A change of one number of one array."""

    def change(dataset):
        array = getattr(dataset, name).copy()
        array[where] = value
        return replace(dataset, **{name: array})

    return change


def exchange(name, make):
    return lambda dataset: replace(dataset, **{name: make(getattr(dataset, name))})


BROKEN = {
    "NaN position": (put("positions", (4, 1), np.nan), "frame 1, positions: expected finite"),
    "infinite position": (put("positions", (0, 0), -np.inf), "frame 0, positions: expected finite"),
    "NaN cell": (put("cell", (1, 0, 0), np.nan), "frame 1, cell: expected finite"),
    "atom without an element": (put("numbers", 5, 0), "frame 2, numbers: .* found 0"),
    "element 119": (put("numbers", 3, 119), "frame 1, numbers: .* 1 to 118, found 119"),
    "two atoms at one place": (
        put("positions", 2, [0.9, 0.1, 0.0]),
        "frame 0, positions: .* atoms 1 and 2 at 0.1",
    ),
    "near a periodic image": (
        put("positions", 4, np.array([0.1, 0, 0]) + [4.0, 0, 0] + [5 * 1.5, 5 * 4.2, 0.25]),
        "frame 1, positions: .* atoms 0 and 1 at 0.250",
    ),
    "near its own image": (put("cell", (2, 0), [0.2, 0, 0]), "frame 2, positions: .* atoms 0 and 0 at 0.200"),
    "flat cell": (put("cell", (1, 2), [5.5, 4.2, 0]), "frame 1, cell: .* volume 0"),
    "cell of zeros": (put("cell", 1, 0.0), r"frame 1, cell: .* \(pbc TTT\)"),
    "zero vector of a slab": (put("cell", (2, 1), 0.0), r"frame 2, cell: .* \(pbc TTF\)"),
    "infinite energy": (put("energy", 2, np.inf), "frame 2, energy: expected finite"),
    "infinite force": (put("forces", (4, 2), np.inf), "frame 1, forces: expected finite"),
    "infinite stress": (put("stress", (1, 0, 0), -np.inf), "frame 1, stress: expected finite"),
    "half a force": (put("forces", (1, 0), np.nan), "frame 0, forces: .* found 1 of 9 NaN"),
    "half a stress": (put("stress", (1, 0), np.nan), "frame 1, stress: .* found 3 of 9 NaN"),
    "no frame": (exchange("atom_ptr", lambda p: p[:1]), "atom_ptr: expected at least one frame"),
    "empty frame": (put("atom_ptr", 1, 0), "atom_ptr: expected rising numbers from 0 to 6"),
    "falling pointers": (put("atom_ptr", 1, 6), "atom_ptr: expected rising"),
    "too few atoms": (exchange("numbers", lambda z: z[:5]), "atom_ptr: .* 0 to 5 .* found 0 to 6"),
    "flat positions": (exchange("positions", np.ravel), r"positions: expected shape \(6, 3\), found \(18,\)"),
    "energy per atom": (
        exchange("energy", lambda e: np.ones(6)),
        r"energy: expected shape \(3,\), found \(6,\)",
    ),
    "forces of one frame": (
        exchange("forces", lambda f: f[:3]),
        r"forces: expected shape \(6, 3\), found \(3, 3\)",
    ),
    "Voigt stress": (exchange("stress", lambda s: np.ones((3, 6))), r"stress: expected shape \(3, 3, 3\)"),
    "one cell": (exchange("cell", lambda c: c[0]), r"cell: expected shape \(3, 3, 3\), found \(3, 3\)"),
    "groups of atoms": (exchange("group", lambda g: g[:2]), r"group: expected shape \(3,\), found \(2,\)"),
    "complex energy": (exchange("energy", lambda e: e + 0j), "energy: .* found complex128"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_a_rule_is_neither_written_nor_read(case, tmp_path, monkeypatch):
    change, message = BROKEN[case]
    path = tmp_path / "broken.h5"
    broken = change(example())
    with pytest.raises(UserError, match=message) as caught:
        write_dataset(path, broken)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr("eqpot.structures.data.validate", lambda *_: None)
    if case != "complex energy":  # it would be written as real
        write_dataset(path, broken)
        monkeypatch.undo()
        with pytest.raises(UserError) as caught:
            read_dataset(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_example_itself_and_a_large_skew_are_legal(tmp_path):
    validate(example(), "example")
    skewed = Atoms("C", cell=[[2, 0, 0], [20.5, 2, 0], [-7, 11, -2]], pbc=True)
    validate(from_atoms([skewed]), "skewed")


def _foreign(path):
    with h5py.File(path, "w") as file:
        file["positions"] = np.zeros((3, 3))


def _truncated(path):
    write_dataset(path, example())
    path.write_bytes(path.read_bytes()[:-500])


def _damaged(path):
    """A byte of the compressed positions inverted."""
    write_dataset(path, example())
    unsealed(path)
    with h5py.File(path) as file:
        offset = file["positions"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 4] ^= 0xFF
    path.write_bytes(content)


def _edited(edit):
    def make(path):
        write_dataset(path, example())
        with h5py.File(unsealed(path), "r+") as file:
            edit(file)

    return make


def _retype(name, values):
    def edit(file):
        del file[name]
        file[name] = values

    return _edited(edit)


BAD_FILES = {
    "absent": (lambda path: None, "expected a data set file, found no such file"),
    "a folder": (lambda path: path.mkdir(), "expected a data set file, found a folder"),
    "empty": (lambda path: path.touch(), "not an HDF5 file: .*found an empty one"),
    "text": (lambda path: path.write_text("3\n\nH 0 0 0\n"), "not an HDF5 file: .*found text"),
    "truncated": (_truncated, "truncated"),
    "damaged": (_damaged, "positions: cannot be read"),
    "foreign": (_foreign, "expected a data set, found an HDF5 file that eqpot did not write"),
    "a model": (
        _edited(lambda f: f.attrs.update(format="eqpot-model")),
        "this is a model, not a data set; try `eqpot info .*x.h5`",
    ),
    "of the future": (_edited(lambda f: f.attrs.update(version=2)), "expected version 1 .* found 2"),
    "without cell": (_edited(lambda f: f.pop("cell")), "cell: expected an array of that name"),
    "without atom_ptr": (_edited(lambda f: f.pop("atom_ptr")), "atom_ptr: expected an array"),
    "positions of text": (_retype("positions", ["a"] * 6), "positions: expected floating-point numbers"),
    "numbers of floats": (_retype("numbers", np.ones(6)), "numbers: expected integers, found float64"),
    "numbers over a byte": (_retype("numbers", np.full(6, 257)), "numbers: .* found 257"),
    "pbc of integers": (_retype("pbc", np.ones((3, 3), int)), "pbc: expected booleans, found int64"),
    "group of numbers": (_retype("group", np.ones(3)), "group: cannot be read as strings"),
    "a group for an array": (
        _edited(lambda f: (f.pop("energy"), f.create_group("energy"))),
        "energy: cannot be read as an array",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_not_a_data_set_is_named(case, tmp_path):
    make, message = BAD_FILES[case]
    path = tmp_path / "x.h5"
    make(path)
    with pytest.raises(UserError, match=message) as caught:
        read_dataset(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_single_precision_files_are_read(tmp_path):
    path = tmp_path / "x.h5"
    _retype("positions", example().positions.astype(np.float32))(path)
    assert read_dataset(path).positions.dtype == np.float64


# ---------------------------------------------------------------- writing, and the sample


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    write_dataset(path, example())
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="a.h5: cannot be written: No space left"):
        write_dataset(path, example().subset([0]))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_writing_into_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UserError, match="b.h5: cannot be written"):
        write_dataset(tmp_path / "a" / "b.h5", example())


def test_the_sample_that_ships_is_small_and_says_how_it_was_made():
    path = files("eqpot.data_tools") / "ethanol.h5"
    assert path.stat().st_size <= 1_000_000
    sample = read_dataset(path)
    assert len(sample) == 1000 and set(sample.sizes) == {9} and sample.species == (1, 6, 8)
    assert sample.known("energy").all() and sample.known("forces").all() and sample.stress is None
    assert "eqpot data sample" in sample.attrs["command"] and sample.attrs["seed"] == 0
    assert "GFN2-xTB" in sample.attrs["level_of_theory"]
    # 27 - 6 vibrations at 500 K: the variance of a harmonic potential energy is 21/2 (kT)^2
    assert sample.energy.std() == pytest.approx(np.sqrt(21 / 2) * 8.617333e-5 * 500, rel=0.15)
    # a molecule in free space has no net force, and no net torque
    forces = sample.forces.reshape(1000, 9, 3)
    torque = np.cross(sample.positions.reshape(1000, 9, 3), forces).sum(axis=1)
    assert abs(forces.sum(axis=1)).max() < 1e-10 and abs(torque).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "frame"), [("positions", 1), ("cell", 2), ("energy", 2), ("forces", 1), ("stress", 2)]
)
def test_numbers_whose_squares_leave_the_range_are_refused(name, frame, tmp_path):
    dataset = toy_dataset(4)
    values = getattr(dataset, name)
    values[2 if len(values) == 4 else dataset.atom_ptr[1]] *= 1e300
    with pytest.raises(UserError, match=f"a.h5: frame {frame}, {name}: expected numbers of at most 1e\\+12"):
        write_dataset(tmp_path / "a.h5", dataset)


def test_names_of_other_bytes_than_text_are_kept_as_far_as_text_can(tmp_path):
    """As of files whose names are in another encoding."""
    path = tmp_path / os.fsdecode(b"a\xff.h5")
    write_dataset(path, replace(toy_dataset(2), attrs={"source": "b\udcff.npz", "level_of_theory": "ωB97"}))
    assert read_dataset(path).attrs == {"source": r"b\udcff.npz", "level_of_theory": "ωB97"}


def test_an_attribute_of_other_bytes_than_text_is_refused(tmp_path):
    """It could not be written again."""
    path = tmp_path / "a.h5"
    write_dataset(path, toy_dataset(2))
    unsealed(path)
    with h5py.File(path, "r+") as file:
        file.attrs["level_of_theory"] = b"\xff\xfe"
    with pytest.raises(UserError, match="a.h5: attribute level_of_theory: expected text in UTF-8"):
        read_dataset(path)
