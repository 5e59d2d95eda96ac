"""Which arrays of a source are the labels: none is taken by a guess, and none is passed over in silence."""

import re
from dataclasses import replace

import numpy as np
import pytest

from eqpot.data_tools.convert import convert
from eqpot.data_tools.labels import is_weight, meaning
from eqpot.errors import UserError
from eqpot.structures.data import concatenate, read_dataset
from eqpot.units import force_unit, stress_unit

# CODATA 2014, as in ase.units, from outside ASE
HARTREE, BOHR, KCAL_MOL, GPA = 27.2113860, 0.529177211, 0.0433641, 1 / 160.2176621

LATTICE = 'Lattice="4 0 0 0 4 0 0 0 4"'
FORCES = np.array([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
OTHER = 2 * FORCES
STRESS = np.array([[0.01, 0.006, 0.005], [0.006, 0.02, 0.004], [0.005, 0.004, 0.03]])
VOLUME = 64.0


def nine(tensor) -> str:
    return '"' + " ".join(f"{x:.10g}" for x in np.ravel(tensor)) + '"'


def source(folder, comment: str, arrays: dict, frames: int = 1, name="a.xyz"):
    """An extxyz of two atoms with per-atom arrays of three columns."""
    columns = "".join(f":{key}:R:3" for key in arrays)
    rows = ["Cu 0 0 0", "Au 2 2 1"]
    for values in arrays.values():
        rows = [f"{row} {' '.join(map(str, v))}" for row, v in zip(rows, values, strict=True)]
    # frames differ in their lattice
    text = "".join(
        f"2\n{LATTICE.replace('4', f'{4 + 0.1 * k:g}')} {comment} Properties=species:S:1:pos:R:3{columns}\n"
        + "\n".join(rows)
        + "\n"
        for k in range(frames)
    )
    path = folder / name
    path.write_text(text)
    return path


ISSUE = f"energy=-99 REF_energy=-14 REF_stress={nine(STRESS)}"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.h5"


def refused(message, *arguments, **options):
    with pytest.raises(UserError, match=message) as caught:
        convert(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert not arguments[1].exists()


def test_two_energies_that_differ_are_asked_for(tmp_path, out):
    path = source(tmp_path, ISSUE, {"REF_forces": FORCES})
    asked = (
        r"a.xyz: frame 0, energy: expected one, found energy = -99 and REF_energy = -14; "
        "choose by --energy-key energy or --energy-key REF_energy"
    )
    refused(asked, path, out)
    refused("expected energy and forces of one origin", path, out, keys={"energy": "energy"})
    result = convert(path, out, keys={"energy": "REF_energy"})
    assert result.dataset.energy[0] == -14
    np.testing.assert_array_equal(result.dataset.forces, FORCES)
    np.testing.assert_allclose(result.dataset.stress[0], STRESS)
    assert "taken: forces from REF_forces, stress from REF_stress" in result.sources[0].notes
    assert any("not used: energy (--energy-key)" in note for note in result.sources[0].notes)


@pytest.mark.parametrize(
    "prefix", ["REF_{}", "ref_{}", "dft_{}", "DFT_{}", "{}_dft", "reference-{}", "ref{}"]
)
def test_one_reference_is_taken_and_told(prefix, tmp_path, out):
    name = {
        q: prefix.format(q.capitalize() if prefix == "ref{}" else q) for q in ("energy", "forces", "stress")
    }
    path = source(tmp_path, f"{name['energy']}=-14 {name['stress']}={nine(STRESS)}", {name["forces"]: FORCES})
    result = convert(path, out)
    assert result.dataset.energy[0] == -14 and result.dataset.known("stress").all()
    np.testing.assert_array_equal(result.dataset.forces, FORCES)
    assert result.sources[0].notes == ["taken: " + ", ".join(f"{q} from {n}" for q, n in name.items())]


@pytest.mark.parametrize(
    ("comment", "arrays", "asked"),
    [
        (
            "energy=-14",
            {"forces": FORCES, "REF_forces": OTHER},
            "forces: expected one, found forces and REF_forces",
        ),
        ("REF_energy=-14 dft_energy=-15", {"forces": FORCES}, "REF_energy = -14 and dft_energy = -15"),
        ("energy=-14 Energy=-15", {"forces": FORCES}, "energy = -14 and Energy = -15"),
        (
            "energy=-14 pbe_energy=-15",
            {"forces": FORCES, "pbe_forces": OTHER},
            "energy = -14 and pbe_energy = -15",
        ),
        (
            f"energy=-14 stress={nine(STRESS)} dft_stress={nine(2 * STRESS)}",
            {"forces": FORCES},
            "stress and dft_st",
        ),
        (
            f"energy=-14 virial={nine(STRESS)} REF_virials={nine(-STRESS)}",
            {"forces": FORCES},
            "virial and REF_vir",
        ),
        ("energy=-14", {"REF_forces": FORCES}, "of one origin, found energy and REF_forces"),
        ("REF_energy=-14", {"forces": FORCES}, "of one origin, found REF_energy and forces"),
        ("pbe_energy=-14", {"pbe_forces": FORCES}, "frame 0, energy: expected in every frame"),
        ("kinetic_energy=1", {"forces": FORCES}, "frame 0, energy: expected in every frame"),
        ("E=-14", {"forces": FORCES}, "frame 0, energy: expected in every frame"),
    ],
)
def test_what_is_asked(comment, arrays, asked, tmp_path, out):
    refused(asked, source(tmp_path, comment, arrays), out)


def test_labels_of_some_frames_are_not_mixed_with_others(tmp_path, out):
    path = source(tmp_path, "energy=-1", {"forces": FORCES}, frames=2)
    path.write_text(
        path.read_text() + source(tmp_path, "REF_energy=-2", {"forces": FORCES}, name="b.xyz").read_text()
    )
    refused("frame 2, energy: expected one, found REF_energy alone, which is energy in other", path, out)
    refused(r"frame 2, energy: .* \(1 of 3 frames lack it", path, out, keys={"energy": "energy"})


def test_two_that_agree_are_one(tmp_path, out):
    comment = f"energy=-14 REF_energy=-14.0 stress={nine(STRESS)} dft_stress={nine(STRESS)}"
    result = convert(source(tmp_path, comment, {"forces": FORCES, "REF_forces": FORCES}), out)
    assert result.dataset.energy[0] == -14 and result.sources[0].notes == []


@pytest.mark.parametrize("quantity", ["energy", "forces", "stress", "virial", "group"])
def test_a_name_that_is_not_there_is_named(quantity, tmp_path, out):
    path = source(tmp_path, f"energy=-14 stress={nine(STRESS)}", {"forces": FORCES})
    found = f"{quantity}: expected the key 'nowhere', found energy, stress, forces"
    refused(found, path, out, keys={quantity: "nowhere"}, allow_missing=["energy", "forces", "stress"])


@pytest.mark.parametrize(
    "name", ["stress", "stresses", "Stress", "STRESS", "dft_stress", "REF_stress", "ref_stresses"]
)
@pytest.mark.parametrize("form", ["nine", "voigt"])
def test_spellings_of_stress(name, form, tmp_path, out):
    values = STRESS if form == "nine" else STRESS[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    path = source(tmp_path, f"energy=-1 {name}={nine(values)}", {"forces": FORCES})
    np.testing.assert_allclose(convert(path, out).dataset.stress[0], STRESS)


@pytest.mark.parametrize(
    "name", ["virial", "virials", "Virial", "vir", "dft_virial", "REF_virials", "REF_virial"]
)
def test_spellings_of_the_virial(name, tmp_path, out):
    path = source(tmp_path, f"energy=-1 {name}={nine(-STRESS * VOLUME)}", {"forces": FORCES})
    np.testing.assert_allclose(convert(path, out).dataset.stress[0], STRESS)


def test_everything_that_looks_like_a_label_is_told(tmp_path, out):
    comment = "energy=-14 corrected_total_energy=-15 kinetic_energy=1 dipole=3 old_stress=" + nine(STRESS)
    comment += " virial_stress=" + nine(STRESS)
    path = source(tmp_path, comment, {"forces": FORCES, "vdw_forces": OTHER}, frames=2)
    path.write_text(path.read_text().replace("kinetic_energy=1", "x=1", 1))
    (note,) = convert(path, out).sources[0].notes[:1]
    assert note == (
        "look like labels and are not used: corrected_total_energy, old_stress, virial_stress, "
        "vdw_forces, kinetic_energy (in 1 of 2 frames) (--energy-key, --stress-key, --forces-key)"
    )


def test_energies_of_atoms_are_no_frames_energy(tmp_path, out):
    """Two atoms' own numbers are per atom even where a frame has one atom."""
    text = "1\nenergy=-1 Properties=species:S:1:pos:R:3:forces:R:3:energies:R:1\nCu 0 0 0 0 0 0 -7\n"
    (tmp_path / "a.xyz").write_text(text)
    result = convert(tmp_path / "a.xyz", out)
    assert result.dataset.energy[0] == -1
    assert "energies (per atom)" in result.sources[0].notes[0]


def test_weights_are_told(tmp_path, out):
    path = source(tmp_path, "energy=-1 config_weight=2 energy_weight=3", {"forces": FORCES})
    result = convert(path, out)
    assert result.sources[0].notes == [
        "weights of frames from config_weight",
        "weights in the data are not used: energy_weight",
    ]
    assert result.dataset.weight.tolist() == [2]


def test_weights_of_frames(tmp_path, out):
    """config_weight, or what is named; 1 where a frame has none; kept by the file and what is made of it."""
    path = source(tmp_path, "energy=-1 config_weight=0.5 w=3", {"forces": FORCES}, frames=3)
    path.write_text(path.read_text().replace("config_weight=0.5 ", "", 1))
    result = convert(path, out)
    assert result.dataset.weight.tolist() == [1, 0.5, 0.5]
    assert result.sources[0].notes == [
        "weights of frames from config_weight; 1 of 3 frames have none and weigh 1"
    ]
    data = read_dataset(out)
    assert data.weight.tolist() == [1, 0.5, 0.5] and data.subset([1]).weight.tolist() == [0.5]
    assert data.atoms(2).info["config_weight"] == 0.5
    plain = replace(data, weight=None)
    assert concatenate([plain, data]).weight.tolist() == [1, 1, 1, 1, 0.5, 0.5]
    named = convert(path, out, keys={"weight": "w"}, overwrite=True)
    assert named.dataset.weight.tolist() == [3, 3, 3]
    assert named.sources[0].notes[-1] == "weights in the data are not used: config_weight"


@pytest.mark.parametrize(
    ("comment", "keys", "words"),
    [
        ("config_weight=-1", {}, "frame 0, weight: expected a number from 0 to 1e.12, found -1"),
        ("config_weight=nan", {}, "frame 0, weight: expected a number from 0 to 1e.12, found nan"),
        ("w=heavy", {"weight": "w"}, "frame 0, weight: "),
        ("", {"weight": "w"}, "weight: expected the key 'w', found energy, forces"),
    ],
)
def test_what_is_no_weight(comment, keys, words, tmp_path, out):
    refused(words, source(tmp_path, f"energy=-1 {comment}", {"forces": FORCES}), out, keys=keys)


def test_a_config_weight_of_atoms_is_no_frames_weight(tmp_path, out):
    path = source(tmp_path, "energy=-1", {"forces": FORCES, "config_weight": FORCES})
    result = convert(path, out)
    assert result.dataset.weight is None
    unused = "weights in the data are not used: config_weight (frame 0: expected one number, found "
    assert result.sources[0].notes == [unused + "6 numbers)"]
    path = source(tmp_path, "energy=-1 config_weight=low", {"forces": FORCES})
    assert convert(path, out, overwrite=True).sources[0].notes == [unused + "'low')"]


def test_weights_of_frames_in_an_npz(tmp_path, out):
    np.savez(tmp_path / "a.npz", **arrays(config_weight=np.arange(4.0)))
    assert convert(tmp_path / "a.npz", out).dataset.weight.tolist() == [0, 1, 2, 3]
    np.savez(tmp_path / "a.npz", **arrays(config_weight=np.ones(3), w=np.arange(4.0)[:, None]))
    named = convert(tmp_path / "a.npz", out, keys={"weight": "w"}, overwrite=True)
    assert named.dataset.weight.tolist() == [0, 1, 2, 3]
    plain = convert(tmp_path / "a.npz", out, overwrite=True)
    assert plain.dataset.weight is None
    assert plain.sources[0].notes[0].endswith("config_weight (frame 0: expected one number, found 3 numbers)")
    np.savez(tmp_path / "a.npz", **arrays(w=np.ones(3)))
    refused("w: expected shape", tmp_path / "a.npz", tmp_path / "new.h5", keys={"weight": "w"})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("energy", ("energy", "")),
        ("REF_energy", ("energy", "ref")),
        ("DFTEnergy", ("energy", "dft")),
        ("forces_dft", ("forces", "dft")),
        ("corrected_total_energy", ("energy", "corrected_total")),
        ("dipole", None),
        ("virial_stress", ("stress", "virial")),
        ("energy_weight", None),
    ],
)
def test_meaning(name, expected):
    assert meaning(name) == expected


def test_weights_by_name():
    assert all(map(is_weight, ("config_weight", "weights", "forces_weight", "atom_pref")))
    assert not any(map(is_weight, ("energy", "prefix", "weighted")))


# ---------------------------------------------------------------- stress and virial


def both(folder, stress, virial):
    return source(
        folder, f"energy=-1 stress={nine(stress)} virial={nine(virial)}", {"forces": FORCES}, frames=1
    )


def test_stress_and_virial_that_agree(tmp_path, out):
    path = both(tmp_path, STRESS, -VOLUME * STRESS)
    result = convert(path, out)
    np.testing.assert_allclose(result.dataset.stress[0], STRESS)
    assert result.sources[0].notes == []


@pytest.mark.parametrize(
    ("factor", "why"),
    [
        (VOLUME, "-1 times that: the sign alone differs"),
        (-1.0, "64 times that: the volume alone differs"),
        (-VOLUME * GPA, "160.2 times that: GPa alone differs"),
        (-VOLUME * 0.1 * GPA, "1602 times that: kbar alone differs"),
        (-VOLUME * 2, "0.5 times that;"),
    ],
)
def test_stress_and_virial_that_contradict_each_other(factor, why, tmp_path, out):
    path = both(tmp_path, STRESS, factor * STRESS)
    refused(
        re.escape("a.xyz: frame 0, stress: expected -virial / volume = ") + f".*{re.escape(why)}", path, out
    )
    np.testing.assert_allclose(convert(path, out, keys={"stress": "stress"}).dataset.stress[0], STRESS)
    other = convert(path, out, keys={"virial": "virial"}, overwrite=True)
    np.testing.assert_allclose(other.dataset.stress[0], -factor / VOLUME * STRESS, rtol=1e-8)


def test_units_count_in_the_comparison(tmp_path, out):
    path = both(tmp_path, STRESS / (0.1 * GPA), -VOLUME * STRESS)
    np.testing.assert_allclose(convert(path, out, stress_unit="kbar").dataset.stress[0], STRESS, rtol=1e-6)


@pytest.mark.parametrize("half", [np.triu, np.tril])
def test_half_a_stress_is_refused(half, tmp_path, out):
    """Symmetrised in silence, its shear would be half of what it is."""
    path = source(tmp_path, f"energy=-1 stress={nine(half(STRESS))}", {"forces": FORCES})
    refused(
        "frame 0, stress: expected nine numbers of a symmetric tensor, found zeros on one side", path, out
    )


def test_an_asymmetric_stress(tmp_path, out):
    skew = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])
    path = source(tmp_path, f"energy=-1 stress={nine(STRESS + 0.01 * skew)}", {"forces": FORCES})
    refused("frame 0, stress: expected nine numbers of a symmetric tensor, found -0.004 and 0.016", path, out)
    path = source(tmp_path, f"energy=-1 stress={nine(STRESS + 0.0001 * skew)}", {"forces": FORCES})
    result = convert(path, out)
    np.testing.assert_allclose(result.dataset.stress[0], STRESS)
    assert "not quite symmetric" in result.sources[0].notes[0]


# ---------------------------------------------------------------- free energies and units


def test_a_free_energy_that_differs_is_told(tmp_path, out):
    path = source(tmp_path, "energy=-14 free_energy=-14.25", {"forces": FORCES})
    result = convert(path, out)
    assert result.dataset.energy[0] == -14
    assert "energy and free_energy differ by up to 0.25" in result.sources[0].notes[0]
    assert "--energy-key free_energy" in result.sources[0].notes[0]
    taken = convert(path, out, keys={"energy": "free_energy"}, overwrite=True)
    assert taken.dataset.energy[0] == -14.25
    path = source(tmp_path, "energy=-14 free_energy=-14", {"forces": FORCES})
    assert convert(path, out, overwrite=True).sources[0].notes == []


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("Hartree/Bohr", HARTREE / BOHR),
        ("ha/bohr", HARTREE / BOHR),
        ("kcal/mol/Ang", KCAL_MOL),
        ("meV/A", 1e-3),
        ("Ry/Bohr", HARTREE / 2 / BOHR),
    ],
)
def test_units_of_forces(unit, value, tmp_path, out):
    path = source(tmp_path, "energy=-14", {"forces": FORCES})
    result = convert(path, out, force_unit=unit)
    np.testing.assert_allclose(result.dataset.forces, FORCES * value, rtol=1e-6)
    assert result.dataset.energy[0] == -14 and "forces in" in result.sources[0].other_units


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("GPa", GPA),
        ("kbar", 0.1 * GPA),
        ("KBAR", 0.1 * GPA),
        ("bar", 1e-4 * GPA),
        ("MPa", 1e-3 * GPA),
        ("Pa", 1e-9 * GPA),
        ("eV/Ang^3", 1),
        ("Hartree/Bohr^3", HARTREE / BOHR**3),
        ("Ry/bohr**3", HARTREE / 2 / BOHR**3),
    ],
)
def test_units_of_stress(unit, value, tmp_path, out):
    path = source(tmp_path, f"energy=-14 stress={nine(STRESS)}", {"forces": FORCES})
    dataset = convert(path, out, stress_unit=unit).dataset
    np.testing.assert_allclose(dataset.stress[0], STRESS * value, rtol=1e-6)
    np.testing.assert_array_equal(dataset.forces, FORCES)


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (force_unit, "eV"),
        (force_unit, "Hartree/"),
        (force_unit, "MeV/Ang"),
        (stress_unit, "mPa"),
        (stress_unit, "eV/Ang"),
        (stress_unit, "psi"),
        (stress_unit, ""),
    ],
)
def test_wrong_units_are_refused(read, name):
    with pytest.raises(UserError, match=f"unit: expected .*{name.split('/')[0]}"):
        read(name)


@pytest.mark.parametrize(
    ("comment", "told"),
    [
        ("energy=-14 energy_unit=Hartree", "energy_unit says Hartree, energy was read in eV (--energy-unit)"),
        (
            "energy=-14 forces_unit=Ha/Bohr",
            "forces_unit says Ha/Bohr, forces was read in eV/Ang (--force-unit)",
        ),
        ("energy=-14 unit=Hartree", "unit says Hartree, energy was read in eV (--energy-unit)"),
        ("energy=-14 units=Bohr", "units says Bohr, length was read in Ang (--length-unit)"),
        ("energy=-14 unit=eV units=metal", None),
        ("energy=-14 stress_units=kB", "stress_units says kB, stress was read in eV/Ang^3 (--stress-unit)"),
        ("energy=-14 energy_unit=eV forces_unit=eV/A stress_unit=eV/A^3", None),
        (f"energy=-14 stress={nine(STRESS * 1e3)}", "stress of up to 30 eV/Å^3 is implausible"),
        ("energy=-14 virial=" + nine(-STRESS * 1e5), "stress of up to 46.88 eV/Å^3 is implausible"),
        ("energy=-9e7", "is more than all electrons"),
        ("energy=-14", None),
    ],
)
def test_implausible_numbers_are_told(comment, told, tmp_path, out):
    notes = convert(source(tmp_path, comment, {"forces": FORCES}), out).sources[0].notes
    assert any(told in note for note in notes) if told else notes == []


def test_implausible_forces_and_lengths_are_told(tmp_path, out):
    path = source(tmp_path, "energy=-14", {"forces": 100 * FORCES})
    assert "forces of 21.6 eV/Å (RMS) are implausible" in convert(path, out).sources[0].notes[0]
    properties = "Properties=species:S:1:pos:R:3:forces:R:3"
    water = f"3\nenergy=-14 {properties}\nO 0 0 0 0 0 0\nH 1.81 0 0 0 0 0\nH 0 1.81 0 0 0 0\n"
    (tmp_path / "b.xyz").write_text(water)
    notes = convert(tmp_path / "b.xyz", out, overwrite=True).sources[0].notes
    assert len(notes) == 1 and "Bohr (--length-unit)" in notes[0]
    assert convert(tmp_path / "b.xyz", out, length_unit="Bohr", overwrite=True).sources[0].notes == []
    (tmp_path / "far.xyz").write_text(water.replace("1.81", "9.6"))
    notes = convert(tmp_path / "far.xyz", out, overwrite=True).sources[0].notes
    assert len(notes) == 1 and "no two atoms are within 6 Å of each other" in notes[0]


# ---------------------------------------------------------------- npz and DeePMD


def arrays(**others):
    rng = np.random.default_rng(0)
    positions = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + rng.normal(0, 0.02, (4, 3, 3))
    made = {"pos": positions, "z": [8, 1, 1], "cell": 4 * np.eye(3)}
    return made | {"energy": -np.arange(14.0, 18.0), "forces": rng.normal(size=(4, 3, 3))} | others


TENSORS = np.tile(STRESS, (4, 1, 1))


@pytest.mark.parametrize("name", ["stress", "stresses", "dft_stress", "REF_stress", "Stress"])
def test_stress_of_an_npz(name, tmp_path, out):
    np.savez(tmp_path / "a.npz", **arrays(**{name: TENSORS}))
    np.testing.assert_allclose(convert(tmp_path / "a.npz", out).dataset.stress, TENSORS)


@pytest.mark.parametrize("name", ["virial", "virials", "REF_virials", "dft_virial"])
def test_virial_of_an_npz(name, tmp_path, out):
    np.savez(tmp_path / "a.npz", **arrays(**{name: -VOLUME * TENSORS.reshape(4, 9)}))
    np.testing.assert_allclose(convert(tmp_path / "a.npz", out).dataset.stress, TENSORS)


def test_labels_of_an_npz(tmp_path, out):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays(REF_energy=np.zeros(4)))
    refused("a.npz: frame 0, energy: expected one, found energy = -14.0 and REF_energy = 0.0", path, out)
    np.savez(path, **arrays(stress=TENSORS, virials=VOLUME * TENSORS))
    refused("the sign alone differs; choose by --stress-key stress or --virial-key virials", path, out)
    np.savez(path, **arrays(old_energies=np.zeros(4), weights=np.ones(4), kinetic_energy=np.ones(4), e_kin=1))
    assert convert(path, out).sources[0].notes == [
        "look like labels and are not used: old_energies, kinetic_energy (--energy-key)",
        "weights in the data are not used: weights",
    ]
    taken = convert(path, out, keys={"energy": "old_energies"}, overwrite=True).dataset
    np.testing.assert_array_equal(taken.energy, 0)


def test_a_lattice_of_another_name_in_an_npz(tmp_path, out):
    made = arrays(lattice_vectors=4 * np.eye(3))
    del made["cell"]
    np.savez(tmp_path / "a.npz", **made)
    refused(
        "a.npz: cell: expected one of the keys .*, found lattice_vectors; name it by --cell-key",
        tmp_path / "a.npz",
        out,
    )
    assert convert(tmp_path / "a.npz", out, keys={"cell": "lattice_vectors"}).dataset.pbc.all()
    stacked = {k: v for k, v in made.items() if k != "lattice_vectors"} | {"h_matrix": [4 * np.eye(3)] * 4}
    np.savez(tmp_path / "b.npz", **stacked)
    refused("b.npz: cell: expected one of the keys .*, found h_matrix", tmp_path / "b.npz", tmp_path / "b.h5")
    np.savez(tmp_path / "a.npz", **made, pbc=False)
    assert not convert(tmp_path / "a.npz", out, overwrite=True).dataset.pbc.any()


def test_groups_and_symbols_of_an_npz(tmp_path, out):
    np.savez(tmp_path / "a.npz", **arrays(z=["O", "H", "H"], kind=["a", "b", "b", "a"]))
    dataset = convert(tmp_path / "a.npz", out, keys={"group": "kind"}).dataset
    assert list(dataset.group) == ["a", "b", "b", "a"] and dataset.species == (1, 8)
    np.savez(tmp_path / "a.npz", **arrays(z=["O", "H", "D"]))
    with pytest.raises(UserError, match="frame 0, atom 2: expected a chemical symbol such as Cu, found 'D'"):
        convert(tmp_path / "a.npz", out, overwrite=True)


@pytest.mark.parametrize("value", [np.ones(4) * 1j, np.array(["-1"] * 4), np.ones(4, bool)])
def test_labels_that_are_no_real_numbers(value, tmp_path, out):
    np.savez(tmp_path / "a.npz", **arrays(energy=value))
    refused("a.npz: frame 0, energy: expected numbers", tmp_path / "a.npz", out)


def deepmd(folder, **others):
    made = arrays()
    (folder / "set.000").mkdir(parents=True)
    (folder / "type.raw").write_text("0 1 1\n")
    (folder / "type_map.raw").write_text("O H\n")
    files = {"coord": made["pos"], "box": np.tile(made["cell"], (4, 1, 1)), "force": made["forces"]} | others
    for name, values in files.items():
        np.save(folder / "set.000" / f"{name}.npy", np.reshape(values, (4, -1)))
    np.save(folder / "set.000" / "energy.npy", made["energy"])
    return folder


def test_labels_of_deepmd(tmp_path, out):
    for name, values in (("stress", TENSORS), ("virials", -VOLUME * TENSORS), ("REF_stress", TENSORS)):
        dataset = convert(deepmd(tmp_path / name, **{name: values}), out, overwrite=True).dataset
        np.testing.assert_allclose(dataset.stress, TENSORS)
    out.unlink()
    refused(
        "frame 0, stress: .* the sign alone",
        deepmd(tmp_path / "b", stress=TENSORS, virial=VOLUME * TENSORS),
        out,
    )
    refused("frame 0, energy: .* and REF_energy = 0.0", deepmd(tmp_path / "c", REF_energy=np.zeros(4)), out)
    refused(
        "forces: expected the key 'f', found energy, force", tmp_path / "stress", out, keys={"forces": "f"}
    )
    told = convert(deepmd(tmp_path / "d", atom_pref=np.ones((4, 3)), atom_energy=np.ones((4, 3))), out)
    assert told.sources[0].notes == [
        "look like labels and are not used: atom_energy (--energy-key)",
        "weights in the data are not used: atom_pref",
    ]


@pytest.mark.parametrize(("group", "told"), [("", True), (" config_type=isolated_atom", False)])
def test_lone_atoms_of_no_group_are_told(group, told, tmp_path, out):
    water = "3\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-14\n" + "".join(
        f"{s} {x} 0 0 0 0 0\n" for s, x in (("H", 0), ("O", 1), ("H", 2))
    )
    lone = f"1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-13{group}\nH 0 0 0 0 0 0\n"
    path = tmp_path / "both.extxyz"
    path.write_text(water + lone)
    notes = "\n".join(note for source in convert(path, out).sources for note in source.notes)
    assert ("1 frame of one atom (first: frame 1) in no group IsolatedAtom" in notes) == told
