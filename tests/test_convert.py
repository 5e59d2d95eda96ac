"""Every layout of published data ends as the same frames in eV and Å, and nothing is guessed."""

import os

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner

from eqpot.data_tools.commands import data
from eqpot.data_tools.convert import convert
from eqpot.errors import UserError
from eqpot.structures.data import read_dataset, write_dataset

# CODATA 2014, as in ase.units, from outside ASE
KCAL_MOL = 0.0433641
HARTREE = 27.2113860
BOHR = 0.529177211
RYDBERG = 13.6056930
KJ_MOL = 0.0103642697

CELL = np.array([[5.0, 0.2, 0.0], [0.0, 5.5, 0.1], [0.3, 0.0, -6.0]])
VOLUME = abs(np.linalg.det(CELL))
NUMBERS = np.array([8, 1, 1])
FRAMES = 4
RNG = np.random.default_rng(5)
POSITIONS = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + RNG.normal(0, 0.05, (FRAMES, 3, 3))
ENERGY = RNG.normal(-14, 1, FRAMES)
FORCES = RNG.normal(0, 1, (FRAMES, 3, 3))
STRESS = RNG.normal(0, 0.01, (FRAMES, 3, 3))
STRESS = STRESS + STRESS.transpose(0, 2, 1)


def voigt(stress):
    return np.array([stress[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))])


def structures(pbc=True, labels=("energy", "forces", "stress")) -> list[Atoms]:
    """The frames as ASE holds them, with labels in a calculator."""
    made = []
    for k in range(FRAMES):
        atoms = Atoms(NUMBERS, POSITIONS[k], cell=CELL, pbc=pbc)
        results = {"energy": ENERGY[k], "forces": FORCES[k], "stress": voigt(STRESS[k])}
        atoms.calc = SinglePointCalculator(atoms, **{name: results[name] for name in labels})
        made.append(atoms)
    return made


def assert_frames(dataset, stress=True, periodic=True, tolerance=1e-12):
    """``dataset`` is the frames above."""
    assert len(dataset) == FRAMES
    np.testing.assert_array_equal(dataset.numbers, np.tile(NUMBERS, FRAMES))
    expected = {"positions": POSITIONS, "energy": ENERGY, "forces": FORCES}
    expected["cell"] = np.array([CELL * periodic] * FRAMES)
    for name, values in expected.items():
        found = getattr(dataset, name)
        np.testing.assert_allclose(found, values.reshape(found.shape), rtol=0, atol=tolerance, err_msg=name)
    np.testing.assert_array_equal(dataset.pbc, np.full((FRAMES, 3), periodic))
    if stress:
        np.testing.assert_allclose(dataset.stress, STRESS, rtol=0, atol=tolerance)
    else:
        assert dataset.stress is None


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.h5"


def refused(message: str, *arguments, **options) -> str:
    """``convert`` raises a UserError of one line that matches ``message``, and writes nothing."""
    with pytest.raises(UserError, match=message) as caught:
        convert(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert not os.path.exists(arguments[1])
    return str(caught.value)


# ---------------------------------------------------------------- what ASE reads


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.xyz"])
def test_what_ase_reads(name, tmp_path, out):
    write(tmp_path / name, structures(), **({"format": "extxyz"} if "xyz" in name else {}))
    result = convert(tmp_path / name, out)
    assert_frames(result.dataset, tolerance=1e-8)  # extxyz has eight digits
    assert_frames(read_dataset(out), tolerance=1e-8)
    assert (result.sources[0].energy_unit, result.sources[0].length_unit) == ("eV", "Ang")


EXTXYZ = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:dft_forces:R:3 dft_energy=-1.5 {} pbc="T T T"
Cu 0 0 0  0.1 0.2 0.3
Au 2 2 1  -0.1 -0.2 -0.3
"""
TENSOR = [[1.0, 0.6, 0.5], [0.6, 2.0, 0.4], [0.5, 0.4, 3.0]]


@pytest.mark.parametrize(
    "text",
    ['dft_stress="1 0.6 0.5 0.6 2 0.4 0.5 0.4 3"', 'dft_stress="1 2 3 0.4 0.5 0.6"'],
    ids=["nine numbers", "Voigt"],
)
def test_extxyz_with_names_of_its_own(text, tmp_path, out):
    (tmp_path / "a.xyz").write_text(EXTXYZ.format(text))
    keys = {"energy": "dft_energy", "forces": "dft_forces", "stress": "dft_stress"}
    dataset = convert(tmp_path / "a.xyz", out, keys=keys).dataset
    np.testing.assert_array_equal(dataset.energy, [-1.5])
    np.testing.assert_array_equal(dataset.forces, [[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
    np.testing.assert_array_equal(dataset.stress[0], TENSOR)


def test_extxyz_virial_is_minus_stress_times_volume(tmp_path, out):
    (tmp_path / "a.xyz").write_text(EXTXYZ.format('virial="1 0.6 0.5 0.6 2 0.4 0.5 0.4 3"'))
    result = convert(tmp_path / "a.xyz", out, keys={"energy": "dft_energy", "forces": "dft_forces"})
    np.testing.assert_allclose(result.dataset.stress[0], -np.array(TENSOR) / 64, rtol=1e-15)
    assert "-virial / volume" in result.sources[0].notes[0]


def test_names_that_are_there_are_told_when_one_is_missing(tmp_path, out):
    (tmp_path / "a.xyz").write_text(EXTXYZ.format("").replace("dft_energy", "corrected_energy"))
    message = refused("a.xyz: frame 0, energy: expected in every frame", tmp_path / "a.xyz", out)
    assert "corrected_energy" in message and "--energy-key" in message


def test_group_is_the_config_type(tmp_path, out):
    frames = structures()
    for k, name in enumerate(("slab", "bulk", "bulk")):
        frames[k].info.update(config_type=name, phase=f"p{k}")
    write(tmp_path / "a.xyz", frames, format="extxyz")
    assert list(convert(tmp_path / "a.xyz", out).dataset.group) == ["slab", "bulk", "bulk", ""]
    other = convert(tmp_path / "a.xyz", out, keys={"group": "phase"}, overwrite=True)
    assert list(other.dataset.group) == ["p0", "p1", "p2", ""]


def test_a_box_around_a_molecule_is_not_a_cell(tmp_path, out):
    write(tmp_path / "a.xyz", structures(pbc=False), format="extxyz")
    result = convert(tmp_path / "a.xyz", out)
    assert_frames(result.dataset, stress=False, periodic=False, tolerance=1e-8)
    assert "stress ignored in 4 frames" in result.sources[0].notes[0]


def test_a_slab_keeps_its_two_vectors(tmp_path, out):
    write(tmp_path / "a.xyz", structures(pbc=(True, True, False), labels=("energy", "forces")))
    dataset = convert(tmp_path / "a.xyz", out).dataset
    np.testing.assert_array_equal(dataset.pbc, [[True, True, False]] * FRAMES)
    np.testing.assert_allclose(dataset.cell[0], [*CELL[:2], [0, 0, 0]])


def _lines(change):
    """The frames as extxyz (5 lines each) with one line exchanged."""

    def make(path):
        write(path, structures(), format="extxyz")
        lines = path.read_text().splitlines()
        change(lines)
        path.write_text("\n".join(lines) + "\n")

    return make


BAD_XYZ = {
    "stars": (_lines(lambda x: x.__setitem__(7, "O 0 0 0 **** 0 0")), "frame 1: ASE cannot read it"),
    "short row": (_lines(lambda x: x.__setitem__(7, "O 0 0 0")), "frame 1: ASE cannot read it"),
    "unknown element": (
        _lines(lambda x: x.__setitem__(12, "Qq 0 0 0 0 0 0")),
        "frame 2, atom 0: expected a .* 'Qq'",
    ),
    "dummy atom": (_lines(lambda x: x.__setitem__(12, "X 0 0 0 0 0 0")), "frame 2, numbers: .* found 0"),
    "NaN position": (
        _lines(lambda x: x.__setitem__(7, "O nan 0 0 0 0 0")),
        "frame 1, positions: expected finite",
    ),
    "NaN force": (_lines(lambda x: x.__setitem__(7, "O 0 0 0 nan 0 0")), "frame 1, forces: .* 1 of 9 NaN"),
    "infinite energy": (
        _lines(lambda x: x.__setitem__(16, x[16].replace("energy=", "energy=inf old="))),
        "frame 3, energy: expected finite",
    ),
    "energy in words": (
        _lines(lambda x: x.__setitem__(6, x[6].replace("energy=", "energy=failed old="))),
        "frame 1, energy: expected numbers, found 'failed'",
    ),
    "no energy": (
        _lines(lambda x: x.__setitem__(6, x[6].replace("energy=", "old="))),
        r"frame 1, energy: expected in every frame, found none or NaN \(1 of 4",
    ),
    "no forces": (
        _lines(lambda x: x.__setitem__(11, x[11].replace("forces:R", "old:R"))),
        r"frame 2, forces: expected in every frame, found none or NaN \(1 of 4",
    ),
    "no stress in one": (
        _lines(lambda x: x.__setitem__(11, x[11].replace("stress=", "old="))),
        "frame 2, stress: expected, since other periodic frames have it",
    ),
    "flat cell": (
        _lines(lambda x: x.__setitem__(6, 'Lattice="5 0 0 0 5 0 5 5 0" ' + x[6].split('"', 2)[2])),
        "frame 1, cell: expected independent vectors .* volume 0",
    ),
    "one atom on another": (
        _lines(lambda x: x.__setitem__(8, "H" + x[7][1:])),
        "frame 1, positions: expected atoms at least 0.3 Å apart, found atoms 0 and 1 at 0.000",
    ),
    "truncated": (_lines(lambda x: x.pop()), "frame 3: expected 3 lines of atoms, found 2"),
    "a line lost": (_lines(lambda x: x.pop(7)), "frame 2, line 11: expected a number of atoms"),
    "blank line": (
        _lines(lambda x: x.insert(10, "")),
        "expected nothing after the blank line 11, found line 12",
    ),
    "empty": (lambda path: path.touch(), "a.xyz: the format is not recognised .*no frames"),
    "absent": (lambda path: None, "a.xyz: no such file"),
}


@pytest.mark.parametrize("case", BAD_XYZ)
def test_bad_extxyz_is_an_error_that_names_file_and_frame(case, tmp_path, out):
    make, message = BAD_XYZ[case]
    make(tmp_path / "a.xyz")
    assert refused(message, tmp_path / "a.xyz", out).startswith(str(tmp_path / "a.xyz"))
    assert not out.exists()


def test_a_missing_label_is_nan_where_that_is_allowed(tmp_path, out):
    for case, label, frame in (
        ("no energy", "energy", 1),
        ("no forces", "forces", 2),
        ("no stress in one", "stress", 2),
    ):
        BAD_XYZ[case][0](tmp_path / "a.xyz")
        dataset = convert(tmp_path / "a.xyz", out, allow_missing=[label], overwrite=True).dataset
        expected = np.arange(FRAMES) != frame
        for name in ("energy", "forces", "stress"):
            np.testing.assert_array_equal(dataset.known(name), expected if name == label else True)


# ---------------------------------------------------------------- npz

PLAIN = {
    "pos": POSITIONS,
    "numbers": NUMBERS,
    "cell": CELL,
    "energy": ENERGY,
    "forces": FORCES,
    "stress": STRESS,
}
SPELT = [
    {"positions": POSITIONS, "atomic_numbers": NUMBERS, "lattice": CELL, "pbc": True, "energies": ENERGY},
    {
        "coords": POSITIONS,
        "z": np.tile(NUMBERS, (FRAMES, 1)),
        "cell": np.tile(CELL, (FRAMES, 1, 1)),
        "E": ENERGY,
    },
    {
        "R": POSITIONS,
        "numbers": NUMBERS,
        "cell": CELL.ravel(),
        "energy": ENERGY[:, None],
        "pbc": np.array([True] * 3),
    },
    {"pos": POSITIONS, "numbers": NUMBERS, "cell": np.tile(CELL.ravel(), (FRAMES, 1)), "energy": ENERGY},
]


def ragged(values):
    made = np.empty(len(values), dtype=object)
    made[:] = list(values)
    return made


@pytest.mark.parametrize("index", range(len(SPELT)))
@pytest.mark.parametrize("forces", ["forces", "F"])
def test_plain_npz_by_its_common_spellings(index, forces, tmp_path, out):
    np.savez(tmp_path / "a.npz", **SPELT[index], **{forces: FORCES})
    result = convert(tmp_path / "a.npz", out)
    assert_frames(result.dataset, stress=False)
    assert result.sources[0].energy_unit == "eV"


@pytest.mark.parametrize("form", ["3x3", "nine", "voigt"])
def test_npz_stress(form, tmp_path, out):
    stress = {"3x3": STRESS, "nine": STRESS.reshape(FRAMES, 9), "voigt": np.array([voigt(s) for s in STRESS])}
    np.savez(tmp_path / "a.npz", **{**PLAIN, "stress": stress[form]})
    assert_frames(convert(tmp_path / "a.npz", out).dataset)


def test_npz_with_names_of_its_own(tmp_path, out):
    keys = {"positions": "x", "numbers": "who", "cell": "h", "energy": "u", "forces": "f", "stress": "s"}
    values = dict(zip(keys.values(), PLAIN.values(), strict=True))
    np.savez(tmp_path / "a.npz", **values)
    assert_frames(convert(tmp_path / "a.npz", out, keys=keys).dataset)


def test_ragged_npz_is_a_pickle(tmp_path, out):
    """Frames of different sizes are an object array; none is ever loaded, and what to do instead is said."""
    cut = ragged([positions[:n] for positions, n in zip(POSITIONS, (3, 1, 2, 3), strict=True)])
    np.savez(tmp_path / "a.npz", pos=cut, z=NUMBERS, E=ENERGY)
    message = refused("a.npz: pos: expected numbers, found an object array", tmp_path / "a.npz", out)
    assert "extxyz" in message


def test_three_frames_of_three_atoms_are_not_mixed_up(tmp_path, out):
    """With as many frames as atoms and dimensions, a shared array looks like one per frame."""
    np.savez(
        tmp_path / "a.npz",
        pos=POSITIONS[:3],
        z=NUMBERS,
        E=ENERGY[:3],
        forces=FORCES[:3],
        cell=CELL,
        pbc=[1, 1, 0],
    )
    dataset = convert(tmp_path / "a.npz", out).dataset
    np.testing.assert_array_equal(dataset.numbers, np.tile(NUMBERS, 3))
    np.testing.assert_array_equal(dataset.cell, [[*CELL[:2], [0, 0, 0]]] * 3)
    np.testing.assert_array_equal(dataset.pbc, [[True, True, False]] * 3)


def test_one_frame_without_the_axis_of_frames(tmp_path, out):
    np.savez(tmp_path / "a.npz", pos=POSITIONS[0], z=NUMBERS, E=ENERGY[0], forces=FORCES[0])
    dataset = convert(tmp_path / "a.npz", out).dataset
    assert len(dataset) == 1 and not dataset.pbc.any()
    np.testing.assert_array_equal(dataset.forces, FORCES[0])


MD17 = {"R": POSITIONS, "z": NUMBERS.astype(np.uint8), "E": ENERGY[:, None], "F": FORCES}
RMD17 = {"coords": POSITIONS, "nuclear_charges": NUMBERS, "energies": ENERGY, "forces": FORCES}


@pytest.mark.parametrize("arrays", [MD17, RMD17], ids=["MD17", "rMD17"])
def test_the_md17_family_is_in_kcal_per_mol_and_that_is_said(arrays, tmp_path, out):
    arrays = {**arrays, "old_energies": ENERGY, "old_forces": FORCES, "theory": "PBE"}
    np.savez(tmp_path / "a.npz", **arrays)
    result = convert(tmp_path / "a.npz", out)
    np.testing.assert_allclose(result.dataset.energy, ENERGY * KCAL_MOL, rtol=1e-6)
    np.testing.assert_allclose(result.dataset.forces, FORCES.reshape(-1, 3) * KCAL_MOL, rtol=1e-6)
    np.testing.assert_array_equal(result.dataset.positions, POSITIONS.reshape(-1, 3))
    assert "kcal/mol assumed" in result.sources[0].notes[0]
    assert read_dataset(out).attrs["level_of_theory"] == "PBE"

    told = convert(tmp_path / "a.npz", out, energy_unit="eV", overwrite=True)
    assert_frames(told.dataset, stress=False, periodic=False)
    assert not told.sources[0].notes


def test_units_that_an_sgdml_file_states_are_believed(tmp_path, out):
    np.savez(tmp_path / "a.npz", **MD17, e_unit="Hartree", r_unit="Bohr")
    result = convert(tmp_path / "a.npz", out)
    np.testing.assert_allclose(result.dataset.energy, ENERGY * HARTREE, rtol=1e-7)
    np.testing.assert_allclose(result.dataset.positions, POSITIONS.reshape(-1, 3) * BOHR, rtol=1e-7)
    np.savez(tmp_path / "b.npz", **MD17, e_unit="K")
    out.unlink()
    refused("b.npz: energy unit: expected one of eV, .*; found K", tmp_path / "b.npz", out)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


BAD_NPZ = {
    "text": (None, "cannot be read as npz"),
    "no positions": ({"z": NUMBERS, "E": ENERGY}, "positions: expected one of the keys .* found z, E"),
    "no numbers": ({"pos": POSITIONS, "E": ENERGY}, "numbers: expected one of the keys"),
    "no forces": (
        {"pos": POSITIONS, "z": NUMBERS, "E": ENERGY},
        "frame 0, forces: .* the keys there are: pos",
    ),
    "no energy": ({"pos": POSITIONS, "z": NUMBERS, "F": FORCES}, "frame 0, energy: expected in every frame"),
    "two energies": (
        {**PLAIN, "E": ENERGY + [0, 0, 1, 0]},
        "frame 2, energy: expected one, found energy = .* and E = .*; choose by --energy-key energy or",
    ),
    "an energy too few": ({**PLAIN, "energy": ENERGY[1:]}, r"energy: expected shape .*\(4,\).* found \(3,\)"),
    "an atom too few": (
        {**PLAIN, "forces": FORCES[:, 1:]},
        r"forces: expected shape \(4, 3, 3\), found \(4, 2, 3\)",
    ),
    "numbers too few": (
        {**PLAIN, "numbers": NUMBERS[1:]},
        r"numbers: expected shape \(4, 3\) or one such item",
    ),
    "two dimensions": (
        {**PLAIN, "pos": POSITIONS[..., :2]},
        r"positions: expected shape \(frames, atoms, 3\)",
    ),
    "no frame": ({**PLAIN, "pos": POSITIONS[:0]}, "positions: expected at least one frame"),
    "NaN force": (
        {**PLAIN, "forces": np.where(FORCES[2, 1, 1] == FORCES, np.nan, FORCES)},
        "frame 2, forces",
    ),
    "infinite energy": ({**PLAIN, "energy": ENERGY + [0, np.inf, 0, 0]}, "frame 1, energy: expected finite"),
    "padded": ({**PLAIN, "numbers": [8, 1, 0]}, "frame 0, numbers: .* 1 to 118, found 0"),
    "periodic without cell": ({**RMD17, "pbc": True}, "frame 0, cell: expected one where pbc is true"),
    "pickled code": (
        {**PLAIN, "energy": ragged([Evil()] * FRAMES)},
        "energy: expected numbers, found an object array",
    ),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz_is_an_error_that_names_file_and_array(case, tmp_path, out, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays, message = BAD_NPZ[case]
    if arrays is None:
        (tmp_path / "a.npz").write_text("no archive")
    else:
        np.savez(tmp_path / "a.npz", **arrays)
    assert refused(message, tmp_path / "a.npz", out).startswith(str(tmp_path / "a.npz"))
    assert not (tmp_path / "evil").exists()


# ---------------------------------------------------------------- DeePMD folders


def deepmd(folder, frames=slice(None), virial=True, periodic=True):
    """One system of two sets, as DeePMD lays it out."""
    indices = np.arange(FRAMES)[frames]
    folder.mkdir(parents=True)
    (folder / "type.raw").write_text("1\n0\n0\n")
    (folder / "type_map.raw").write_text("H O\n")
    if not periodic:
        (folder / "nopbc").touch()
    for number, part in enumerate(np.array_split(indices, 2)):
        path = folder / f"set.{number:03}"
        path.mkdir()
        arrays = {"coord": POSITIONS[part], "force": FORCES[part], "energy": ENERGY[part]}
        if periodic:
            arrays["box"] = np.tile(CELL, (len(part), 1, 1))
        if virial:
            arrays["virial"] = -STRESS[part] * VOLUME
        for name, values in arrays.items():
            np.save(path / f"{name}.npy", values if name == "energy" else values.reshape(len(part), -1))


def test_deepmd_system(tmp_path, out):
    deepmd(tmp_path / "water")
    result = convert(tmp_path / "water", out)
    assert_frames(result.dataset, tolerance=1e-14)
    assert [len(source.dataset) for source in result.sources] == [2, 2]


def test_deepmd_systems_under_one_folder_in_order(tmp_path, out):
    deepmd(tmp_path / "all" / "b", slice(2, None))
    deepmd(tmp_path / "all" / "a" / "deep", slice(None, 2))
    assert_frames(convert(tmp_path / "all", out).dataset, tolerance=1e-14)


def test_deepmd_without_cell_or_elements(tmp_path, out):
    deepmd(tmp_path / "water", virial=False, periodic=False)
    assert_frames(convert(tmp_path / "water", out).dataset, stress=False, periodic=False)
    (tmp_path / "water" / "type_map.raw").unlink()
    out.unlink()
    refused("type_map.raw: no such file; .*--type-map", tmp_path / "water", out)
    dataset = convert(tmp_path / "water", out, type_map=["F", "Cl"]).dataset
    np.testing.assert_array_equal(dataset.numbers[:3], [17, 9, 9])


BAD_DEEPMD = {
    "no system": (lambda f: (f / "type.raw").unlink(), "expected a DeePMD system"),
    "no set": (lambda f: [(f / f"set.00{k}").rename(f / f"old{k}") for k in (0, 1)], "expected folders set"),
    "no forces": (
        lambda f: (f / "set.001" / "force.npy").unlink(),
        "set.001: frame 0, forces: expected in every",
    ),
    "no energy": (
        lambda f: (f / "set.000" / "energy.npy").unlink(),
        "set.000: frame 0, energy: .*box.npy, coord",
    ),
    "no positions": (lambda f: (f / "set.001" / "coord.npy").unlink(), "coord.npy: no such file"),
    "no box": (lambda f: (f / "set.001" / "box.npy").unlink(), "box.npy: no such file"),
    "a frame too few": (
        lambda f: np.save(f / "set.001" / "energy.npy", ENERGY[:1]),
        "set.001: energy: expected 2 frames as in coord.npy, found 1",
    ),
    "an atom too few": (
        lambda f: np.save(f / "set.000" / "force.npy", np.ones((2, 6))),
        r"force.npy: expected shape \(frames, 9\), found \(2, 6\)",
    ),
    "no array": (lambda f: (f / "set.000" / "box.npy").write_text("x"), "box.npy: cannot be read as npy"),
    "unknown type": (
        lambda f: (f / "type.raw").write_text("0 1 2"),
        "frame 0, types: expected 0 to 1 .* found 2",
    ),
    "types in words": (lambda f: (f / "type.raw").write_text("O H H"), "type.raw: expected integers"),
    "unknown element": (
        lambda f: (f / "type_map.raw").write_text("H Qq"),
        "expected chemical symbols, found 'Qq'",
    ),
    "some virials": (
        lambda f: (f / "set.001" / "virial.npy").unlink(),
        "set.001: frame 0, stress: expected, since",
    ),
}


@pytest.mark.parametrize("case", BAD_DEEPMD)
def test_bad_deepmd_is_an_error_that_names_the_file(case, tmp_path, out):
    spoil, message = BAD_DEEPMD[case]
    deepmd(tmp_path / "water")
    spoil(tmp_path / "water")
    assert refused(message, tmp_path / "water", out).startswith(str(tmp_path / "water"))


# ---------------------------------------------------------------- units, several sources, output


@pytest.mark.parametrize(
    ("unit", "eV"),
    [
        ("eV", 1),
        ("meV", 1e-3),
        ("mev", 1e-3),
        ("kcal/mol", KCAL_MOL),
        ("kJ/mol", KJ_MOL),
        ("Hartree", HARTREE),
        ("Ry", RYDBERG),
    ],
)
@pytest.mark.parametrize(("length", "Ang"), [("Ang", 1), ("Bohr", BOHR), ("nm", 10)])
def test_units(unit, eV, length, Ang, tmp_path, out):
    np.savez(tmp_path / "a.npz", **PLAIN)
    dataset = convert(tmp_path / "a.npz", out, energy_unit=unit, length_unit=length).dataset
    for name, scale in {
        "positions": Ang,
        "cell": Ang,
        "energy": eV,
        "forces": eV / Ang,
        "stress": eV / Ang**3,
    }.items():
        values = PLAIN.get(name, POSITIONS)
        values = np.tile(CELL, (FRAMES, 1, 1)) if name == "cell" else values
        found = getattr(dataset, name)
        np.testing.assert_allclose(found, values.reshape(found.shape) * scale, rtol=3e-7, err_msg=name)


def test_a_virial_is_an_energy_whatever_the_length_unit(tmp_path, out):
    deepmd(tmp_path / "water")
    dataset = convert(tmp_path / "water", out, energy_unit="Hartree", length_unit="Bohr").dataset
    np.testing.assert_allclose(dataset.stress, STRESS * HARTREE / BOHR**3, rtol=3e-7)


@pytest.mark.parametrize("unit", ["MeV", "MEV", "cal", ""])
def test_an_unknown_unit_is_refused(unit, tmp_path, out):
    np.savez(tmp_path / "a.npz", **PLAIN)
    if unit:
        refused(
            f"energy unit: expected one of eV, meV, .*; found {unit}",
            tmp_path / "a.npz",
            out,
            energy_unit=unit,
        )
    else:
        refused(
            "length unit: expected one of Ang, Bohr, nm; found m", tmp_path / "a.npz", out, length_unit="m"
        )


def test_sources_are_joined_each_with_its_own_units(tmp_path, out):
    np.savez(tmp_path / "a.npz", **MD17)
    deepmd(tmp_path / "water", virial=False)
    write(tmp_path / "b.xyz", structures(labels=("energy", "forces")), format="extxyz")
    convert(tmp_path / "b.xyz", tmp_path / "b.h5")
    sources = [tmp_path / name for name in ("a.npz", "water", "b.h5")]
    result = convert(sources, out)
    dataset = read_dataset(out)
    assert len(dataset) == 3 * FRAMES
    np.testing.assert_allclose(dataset.energy, np.concatenate([ENERGY * KCAL_MOL, ENERGY, ENERGY]), rtol=1e-6)
    assert [source.energy_unit for source in result.sources] == ["kcal/mol", "eV", "eV", "eV"]
    np.testing.assert_array_equal(dataset.pbc.all(axis=1), [False] * FRAMES + [True] * 2 * FRAMES)
    for name in ("a.npz", "water", "b.h5"):
        assert name in dataset.attrs["source"]


def test_molecules_without_stress_may_join_crystals_with_it(tmp_path, out):
    np.savez(tmp_path / "crystal.npz", **PLAIN)
    np.savez(tmp_path / "molecule.npz", **RMD17)
    dataset = convert([tmp_path / "crystal.npz", tmp_path / "molecule.npz"], out).dataset
    np.testing.assert_array_equal(dataset.known("stress"), [True] * FRAMES + [False] * FRAMES)
    np.savez(tmp_path / "other.npz", **{name: value for name, value in PLAIN.items() if name != "stress"})
    out.unlink()
    refused("other.npz: frame 0, stress", [tmp_path / "crystal.npz", tmp_path / "other.npz"], out)


def test_an_existing_file_is_kept(tmp_path, out):
    np.savez(tmp_path / "a.npz", **PLAIN)
    out.write_text("precious")
    with pytest.raises(UserError, match="out.h5: exists already; give --overwrite"):
        convert(tmp_path / "a.npz", out)
    np.savez(tmp_path / "b.npz", **BAD_NPZ["an energy too few"][0])
    with pytest.raises(UserError, match="b.npz"):
        convert(tmp_path / "b.npz", out, overwrite=True)
    assert out.read_text() == "precious"
    convert(tmp_path / "a.npz", out, overwrite=True)
    assert_frames(read_dataset(out))
    refused("the folder .*nowhere does not exist", tmp_path / "a.npz", tmp_path / "nowhere" / "a.h5")
    with pytest.raises(UserError, match="found a folder"):
        convert(tmp_path / "a.npz", tmp_path)


def test_a_missing_source_is_told_before_the_output(tmp_path, out):
    out.write_text("something")
    with pytest.raises(UserError, match="b.npz: no such file or folder"):
        convert(tmp_path / "b.npz", out)
    assert out.read_text() == "something"


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (["a.xyz", "b.xyz"], r"found none; try `eqpot data convert \S+/a.xyz \S+/b.xyz DATA.h5`$"),
        ([f"{k}.xyz" for k in range(5)], r"found none; try `eqpot data convert \S+/frames/\*.xyz DATA.h5`$"),
        ([f"{k}/a.xyz" for k in range(5)], r"found none; try `eqpot data convert \S+/0/a.xyz ... DATA.h5`$"),
        (["notes.txt"], "found none$"),
    ],
)
def test_a_folder_of_other_files_gets_a_hint(files, hint, tmp_path, out):
    for name in files:
        path = tmp_path / "frames" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n\nH 0 0 0\n")
    refused(f"frames: expected a DeePMD system .* in it, {hint}", tmp_path / "frames", out)


def test_wrong_names_of_arrays_are_refused(tmp_path, out):
    np.savez(tmp_path / "a.npz", **PLAIN)
    refused("keys: expected one of .* found energie", tmp_path / "a.npz", out, keys={"energie": "E"})
    refused("allow_missing: expected one of .* found force", tmp_path / "a.npz", out, allow_missing=["force"])
    refused("energy: expected the key 'E', found pos, ", tmp_path / "a.npz", out, keys={"energy": "E"})
    refused("expected at least one source", [], out)


# ---------------------------------------------------------------- the commands


def test_the_command_tells_what_it_found(tmp_path, out):
    np.savez(tmp_path / "a.npz", **RMD17)
    words = ["convert", str(tmp_path / "a.npz"), str(out), "--level-of-theory", "PBE"]
    run = CliRunner().invoke(data, words, catch_exceptions=False)
    assert run.exit_code == 0
    for word in ("rMD17", "kcal/mol, Ang", "energy, forces", "H O", "4 frames, 12 atoms", "kcal/mol assumed"):
        assert word in run.output
    assert read_dataset(out).attrs["level_of_theory"] == "PBE"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_command_fits_eighty_columns_and_breaks_no_path(terminal, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("rich.console.Console.is_terminal", terminal)
    folder = tmp_path / ("a_long_name_" * 8)
    deepmd(folder)
    words = ["convert", str(folder), str(tmp_path / "out.h5")]
    lines = CliRunner().invoke(data, words, catch_exceptions=False).output.splitlines()
    assert lines[0] == str(folder / "set.000") and lines[3] == str(folder / "set.001")
    facts = "  2 frames of 3 atoms (H O); labels: energy, forces, stress; DeePMD in eV, Ang"
    assert lines[1] == lines[4] == facts and len(facts) <= 80
    assert lines[2] == lines[5] == "  periodic in 3 directions, cell 5.004 x 5.501 x 6.007 Å"


def test_the_options_of_the_command(tmp_path, out):
    names = {"pos": "x", "numbers": "who", "cell": "h", "energy": "u", "forces": "f"}
    np.savez(tmp_path / "a.npz", **{names[name]: PLAIN[name] for name in names if name != "energy"})
    words = [
        "convert",
        str(tmp_path / "a.npz"),
        str(out),
        "--energy-unit",
        "hartree",
        "--length-unit",
        "BOHR",
    ]
    words += ["--positions-key", "x", "--numbers-key", "who", "--cell-key", "h", "--forces-key", "f"]
    with pytest.raises(UserError, match="energy"):
        CliRunner().invoke(data, words, catch_exceptions=False)
    run = CliRunner().invoke(data, [*words, "--allow-missing", "energy"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    dataset = read_dataset(out)
    assert dataset.energy is None
    np.testing.assert_allclose(dataset.forces, FORCES.reshape(-1, 3) * HARTREE / BOHR, rtol=3e-7)


def test_names_of_arrays_without_a_source_that_has_such_are_refused(tmp_path, out):
    """What is given is used, or named."""
    xyz = tmp_path / "a.xyz"
    xyz.write_text("1\nenergy=-1 Properties=species:S:1:pos:R:3:forces:R:3\nH 0 0 0 0 0 0\n")
    for name in ("positions", "numbers", "cell", "pbc"):
        with pytest.raises(UserError, match=f"--{name}-key x: expected an npz"):
            convert(xyz, out, keys={name: "x"})
    deepmd(tmp_path / "water")
    with pytest.raises(UserError, match="--group-key x: expected a source whose frames may have a group"):
        convert(tmp_path / "water", out, keys={"group": "x"})
    assert not out.exists()


def test_info_reports_numbers_that_can_be_checked(tmp_path):
    """Two atoms 1.5 Å apart and a lone one: energies are exactly one per element."""
    frames = [Atoms("CO", [[0, 0, 0], [0, 0, 1.5]]), Atoms("CO", [[0, 0, 0], [0, 0, 3.0]]), Atoms("C")]
    for atoms, energy in zip(frames, (-5.0, -5.0, -2.0), strict=True):
        forces = np.zeros((len(atoms), 3))
        forces[0, 0] = 3.0
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    write(tmp_path / "a.xyz", frames, format="extxyz")
    convert(tmp_path / "a.xyz", tmp_path / "a.h5")
    from eqpot.data_tools.info import describe

    info = describe(read_dataset(tmp_path / "a.h5"), cutoff=2.0)
    assert info.formulas == {"CO": 2, "C": 1} and info.elements == {"C": 3, "O": 2}
    assert info.shortest == {("C", "O"): 1.5}
    assert (info.neighbours.mean, info.neighbours.max, info.isolated) == (2 / 5, 1, 3)
    np.testing.assert_array_equal(info.edgeless, [1, 2])
    assert info.energy.mean == pytest.approx(-7 / 3) and info.residual.rms < 1e-12
    assert info.forces["C"].max == 3.0 and info.forces["O"].rms == 0.0
    assert info.forces["all"].rms == pytest.approx(np.sqrt(27 / 15))

    run = CliRunner().invoke(data, ["info", str(tmp_path / "a.h5"), "--cutoff", "2"], catch_exceptions=False)
    assert run.exit_code == 0
    assert "warning: 2 frames have no pair within 2 Å: 1, 2" in run.output and "C-O" in run.output
    assert "\nframes: 3 not periodic\n" in run.output
    with pytest.raises(UserError, match="cutoff"):
        describe(read_dataset(tmp_path / "a.h5"), cutoff=0.0)


def test_info_counts_periodic_images(tmp_path):
    from eqpot.data_tools.info import describe

    copper = Atoms("Cu", cell=3.6 * (np.ones((3, 3)) - np.eye(3)) / 2, pbc=True)
    copper.calc = SinglePointCalculator(copper, energy=0.0, forces=np.zeros((1, 3)))
    write(tmp_path / "a.xyz", copper, format="extxyz")
    info = describe(convert(tmp_path / "a.xyz", tmp_path / "a.h5").dataset, cutoff=3.7)
    assert info.neighbours.mean == 12 + 6  # two shells of fcc
    assert info.shortest == {("Cu", "Cu"): pytest.approx(3.6 / np.sqrt(2))}


def test_the_sampler(tmp_path, out):
    """Real dynamics where tblite is installed, an error that says what to install where it is not."""
    from eqpot.data_tools.sample import sample

    try:
        import tblite.ase  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"eqpot\[demo\]"):
            sample(out, 2)
        pytest.skip("tblite is not installed")
    options = {"interval": 1.0, "equilibrate": 2.0}
    dataset = sample(out, 3, seed=1, **options)
    assert len(dataset) == 3 and dataset.species == (1, 6, 8)
    again = sample(tmp_path / "again.h5", 3, seed=1, **options)
    other = sample(tmp_path / "other.h5", 3, seed=2, **options)
    np.testing.assert_allclose(dataset.positions, again.positions, rtol=0, atol=1e-9)
    assert abs(dataset.positions - other.positions).max() > 1e-3
    with pytest.raises(UserError, match="exists already"):
        sample(out, 3)


def test_the_sampler_without_tblite(out, monkeypatch):
    from eqpot.data_tools.sample import sample

    monkeypatch.setitem(__import__("sys").modules, "tblite.ase", None)
    with pytest.raises(UserError, match=r"tblite cannot be imported .*eqpot\[demo\]"):
        sample(out, 2)
    assert not out.exists()


# ---------------------------------------------------------------- published files


def first_xyz_frames(path, target, count):
    """The first frames of a long extxyz file."""
    lines = []
    with open(path) as file:
        for _ in range(count):
            head = file.readline()
            lines += [head, *(file.readline() for _ in range(int(head) + 1))]
    target.write_text("".join(lines))
    return target


def test_published_stress_has_the_sign_of_tension(data_folder, tmp_path, out):
    """Of one composition, a cell of smaller volume per atom pushes outwards: its stress has a lower trace."""
    dataset = convert(data_folder / "mota_stress" / "MoTa_Test.xyz", out).dataset
    volume = abs(np.linalg.det(dataset.cell)) / dataset.sizes
    trace = np.trace(dataset.stress, axis1=1, axis2=2)
    counts = dataset.composition()
    same = [np.flatnonzero((counts == row).all(axis=1)) for row in np.unique(counts, axis=0)]
    assert max(len(group) for group in same) > 2
    largest = max(same, key=len)
    assert np.corrcoef(volume[largest], trace[largest])[0, 1] > 0.5


def test_published_extxyz_agrees_with_its_text(data_folder, tmp_path, out):
    source = data_folder / "acac" / "train_300K.xyz"
    dataset = convert(first_xyz_frames(source, tmp_path / "a.xyz", 5), out).dataset
    assert len(dataset) == 5 and not dataset.pbc.any() and not dataset.cell.any()
    assert dataset.energy[0] == -9391.45554428476 and set(dataset.group) == {"300K_MD"}
    np.testing.assert_array_equal(dataset.positions[0], [0.07874433, 1.40230941, 0.08237721])
    np.testing.assert_array_equal(dataset.forces[0], [1.47339228, 1.13796366, 0.06391102])


def test_published_energies_of_ethanol_are_of_ethanol(data_folder, tmp_path, out):
    """About -154.7 Hartree; a wrong unit is off by factors."""
    with np.load(data_folder / "ethanol_ccsdt" / "ethanol_ccsd_t-train.npz") as file:
        np.savez(
            tmp_path / "a.npz",
            **{name: file[name][:5] if file[name].ndim > 1 else file[name] for name in file},
        )
    result = convert(tmp_path / "a.npz", out)
    assert abs(result.dataset.energy / HARTREE + 154.7).max() < 0.3
    assert result.dataset.attrs["level_of_theory"] == "Psi4: CCSD(T), cc-pVTZ"
    with np.load(data_folder / "rmd17" / "rmd17_ethanol_train_01.npz") as file:
        arrays = {name: file[name][:5] if len(file[name]) > 9 else file[name] for name in file}
    np.savez(tmp_path / "b.npz", **arrays)
    other = convert(tmp_path / "b.npz", out, overwrite=True).dataset
    assert abs(other.energy / HARTREE + 154.7).max() < 0.3


def test_published_deepmd_and_npz_of_crystals(data_folder, out):
    water = convert(data_folder / "water_pbe0ts" / "data_0", out).dataset
    assert len(water) == 80 and water.species == (1, 8) and water.pbc.all()
    np.testing.assert_array_equal(water.composition()[0], [128, 64])
    lips = convert(data_folder / "lips" / "lips_200.npz", out, overwrite=True).dataset
    assert len(lips) == 200 and lips.species == (3, 15, 16) and lips.pbc.all() and lips.stress is None
    assert lips.energy[0] == pytest.approx(-357.05872304)


def test_published_isolated_atoms_need_leave_to_lack_forces(data_folder, out):
    source = data_folder / "acac" / "isolated_atoms.xyz"
    refused("isolated_atoms.xyz: frame 0, forces", source, out)
    dataset = convert(source, out, allow_missing=["forces"]).dataset
    assert len(dataset) == 3 and dataset.forces is None
    write_dataset(out, dataset)


def test_sources_are_never_overwritten(tmp_path):
    """A forgotten OUT.h5 makes the last source the output: it must stay what it was."""
    source = tmp_path / "frames.xyz"
    source.write_text("1\n\nH 0 0 0\n")
    for out, expected in ((source, "ends in .h5"), (tmp_path / "a.h5", "another file")):
        sources = [source] if out is source else [source, out]
        out.touch()
        before = out.read_bytes()
        with pytest.raises(UserError, match=expected):
            convert(sources, out, overwrite=True)
        assert out.read_bytes() == before
