"""Isolated atoms: exact energies whatever the weights, in value and in every derivative; and fits that want
them."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from ase import Atoms
from checks import check_loss_gradient, gradient
from potentials import batch, crystal, molecule, potential
from runs import same_arrays, settings
from tolerances import MODEL, check_close
from toy import toy_dataset, unsealed

from eqpot import EqpotCalculator, Potential
from eqpot.commands.fit import summary
from eqpot.config import Config
from eqpot.data_tools.convert import convert
from eqpot.errors import UserError
from eqpot.inspect import path_contributions
from eqpot.network.isolated import decide, isolated_frames
from eqpot.network.steps import steps
from eqpot.structures.data import Dataset, concatenate, read_dataset, write_dataset
from eqpot.training.statistics import choose_frames
from eqpot.training.trainer import Trainer

ELEMENTS = ("H", "C", "O")
KINDS = {
    "o3": {},
    "so3": dict(symmetry="so3", blocks=3),
    "norm": dict(nonlinearity="norm"),
    "l_max 0": dict(l_max=0),
    "residual": dict(self_connection="residual"),
    "zbl": dict(zbl=True),
    "no hidden layer": dict(radial_depth=0, blocks=1),
    "odd features": dict(symmetry="so3", features=5),
}
over_kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def exact(dtype: str = "float64", **kind) -> Potential:
    return potential(dtype, isolated_atoms=True, **kind)


def lone(symbol: str) -> Atoms:
    return Atoms(symbol, positions=[[0.0, 0, 0]])


# ------------------------------------------------------------ values


@over_kinds
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_lone_atom_has_its_shift_to_the_last_bit(dtype, kind):
    """By itself, with atoms out of reach, beside molecules, in boxes; as one of few atoms and of many."""
    model = exact(dtype, **kind)
    assert [model.evaluate(lone(s)).energy for s in ELEMENTS] == model.shift.tolist()
    random = np.random.default_rng(0)
    for n in (2, 13, 60):
        apart = Atoms(random.choice(ELEMENTS, n), 20.0 * np.stack(np.unravel_index(range(n), (4, 4, 4)), 1))
        found = model.evaluate(apart)
        assert np.array_equal(found.energies, model.shift[np.searchsorted(model.species, apart.numbers)])
        assert not found.forces.any()
    beside = molecule() + Atoms("HCO", positions=100.0 + 50 * np.eye(3))
    assert np.array_equal(model.evaluate(beside).energies[-3:], model.shift)
    boxed = Atoms("C", cell=20 * np.eye(3), pbc=True)
    assert model.evaluate(boxed).energy == model.shift[1] and not model.evaluate(boxed).stress.any()


@over_kinds
def test_differs_by_constants_of_the_species(kind):
    """Forces and stress are those without; each energy is, less that of a lone atom."""
    with_, without = exact(**kind), potential(**kind)
    at_rest = [without.evaluate(lone(s)).energy for s in ELEMENTS] - without.shift
    assert np.abs(at_rest).min() > 1e-3
    for atoms in (molecule(), crystal()):
        a, b = with_.evaluate(atoms), without.evaluate(atoms)
        species = np.searchsorted(with_.species, atoms.numbers)
        check_close(a.energies, b.energies - at_rest[species], 1e-14, scale=10.0)
        # a product's last bit may hang on how many rows it has
        check_close(a.forces, b.forces, 1e-14, scale=10.0)
        assert b.stress is None or np.allclose(a.stress, b.stress, rtol=0, atol=1e-14)


def test_follows_the_weights():
    """As a step of the optimizer changes them, in place; as validation swaps them; by any number type."""
    model = exact("float32")
    for factor in (1.0, 1.1, 0.7):
        model.params.flat *= factor
        assert model.evaluate(lone("C")).energy == model.shift[1]
        assert model.cast("float64").evaluate(lone("C")).energy == model.shift[1]
    first = list(model.model.paths)[:1]
    assert model.evaluate(lone("O"), paths_off={*first}).energy == model.shift[2]


def test_calculators_and_committees():
    members = [exact("float32"), exact("float32")]
    members[1].params.flat *= 1.1
    for given in (members[0], members):
        atoms = lone("O")
        atoms.calc = EqpotCalculator(given)
        assert atoms.get_potential_energy() == members[0].shift[2]
    assert atoms.calc.results["energy_std"] == 0


# ------------------------------------------------------------ derivatives


@over_kinds
def test_loss_gradient_by_differences(kind):
    """Of energies, forces and stress, by every parameter array."""
    check_loss_gradient(exact(**kind), [molecule(5), crystal(3), lone("O")])


@over_kinds
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_loss_gradient_compiled_and_by_operators(dtype, kind):
    model = exact(dtype, **kind)
    graph = batch(model, molecule(), crystal(), Atoms("OC", [[0, 0, 0], [0, 0, 1.2]]))
    (value, found), (expected_value, expected) = (gradient(model, graph, c) for c in (True, False))
    check_close(value, expected_value, MODEL[dtype])
    check_close(found, expected, MODEL[dtype])


def test_the_gradient_of_lone_atoms_is_none():
    model = exact()
    for compiled in (True, False):
        _, found = gradient(model, batch(model, *map(lone, ELEMENTS)), compiled)
        check_close(found, np.zeros_like(found), 1e-13)


# ------------------------------------------------------------ off


def test_off_unless_asked_for(tmp_path):
    """Models of before have no such key."""
    assert not potential().config.isolated_atoms and not potential(isolated_atoms=False).config.isolated_atoms
    before, model = potential(), exact()
    before.save(tmp_path / "off.h5")
    model.save(tmp_path / "on.h5")
    with h5py.File(unsealed(tmp_path / "off.h5"), "r+") as file:
        config = json.loads(file.attrs["config"])
        del config["isolated_atoms"]
        file.attrs["config"] = json.dumps(config)
    off, on = (Potential.load(tmp_path / name) for name in ("off.h5", "on.h5"))
    assert off.evaluate(molecule()).energy == before.evaluate(molecule()).energy
    assert off.evaluate(lone("C")).energy != off.shift[1]
    assert on.evaluate(molecule()).energy == model.evaluate(molecule()).energy
    assert on.evaluate(lone("C")).energy == on.shift[1]


def test_the_setting():
    assert 'isolated_atoms = "auto"' in Config().to_toml()
    with pytest.raises(UserError, match='model.isolated_atoms: expected "auto", true or false, found 1'):
        Config.from_dict({"model": {"isolated_atoms": 1}})


# ------------------------------------------------------------ what it consists of


@pytest.mark.parametrize("kind", [{}, dict(zbl=True), dict(nonlinearity="norm")], ids=str)
def test_the_shares_of_the_paths_sum_to_the_energy(kind):
    model, atoms = exact(**kind), molecule(6)
    found = path_contributions(model, atoms)
    assert found.energy == pytest.approx(model.evaluate(atoms).energy, abs=1e-12)
    shares = sum(share.sum() for share in found.shares.values())
    assert found.energy_rest + shares == pytest.approx(found.energy, abs=1e-11)
    if not model.config.zbl:
        shifts = model.shift[np.searchsorted(model.species, atoms.numbers)].sum()
        assert found.energy_rest == pytest.approx(shifts, abs=1e-12)
    formulas = {step.name: step.formula for step in steps(model.model)}
    assert "x0" in formulas and formulas["energies"].startswith("scale (x - x0) + shift")


# ------------------------------------------------------------ fits

TABLE = {"H": 0.75, "O": -3.5}


def isolated(symbols: str, energies, group: str = "IsolatedAtom", box: float = 0.0) -> Dataset:
    """A frame for each symbol, with forces of zero."""
    atoms = Atoms(symbols)
    n = len(atoms)
    return Dataset(
        np.arange(n + 1),
        atoms.numbers.astype(np.uint8),
        np.zeros((n, 3)),
        np.tile(box * np.eye(3), (n, 1, 1)),
        np.full((n, 3), box > 0),
        energy=np.array(energies, float),
        forces=np.zeros((n, 3)),
        group=np.full(n, group, object),
    )


def written(path, *parts: Dataset):
    write_dataset(path, concatenate(list(parts)))
    return path


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shifts_of_a_table_are_exact_after_a_fit(tmp_path, dtype):
    config = settings(shifts=TABLE, dtype=dtype, max_epochs=30)
    data = written(tmp_path / "a.h5", toy_dataset())
    trainer = Trainer.start(config, data, tmp_path / "run")
    assert "exactly its energy in train.shifts" in "\n".join(summary(trainer))
    assert "--set model.isolated_atoms=false" in "\n".join(summary(trainer))
    trainer.run()
    for model in (trainer.potential, Potential.load(tmp_path / "run/model.h5")):
        assert {s: model.evaluate(lone(s)).energy for s in TABLE} == TABLE
    assert Config.from_toml(tmp_path / "run/config.toml").model.isolated_atoms is True
    rmse = [row["valid_forces_rmse"] for row in trainer.rows]
    assert min(rmse) < 0.8 * rmse[0]


def test_false_keeps_the_table_as_shifts_alone(tmp_path):
    data = written(tmp_path / "a.h5", toy_dataset(), isolated("HO", [0.75, -3.5]))
    config = settings(shifts=TABLE).replace({"model": {"isolated_atoms": False}})
    trainer = Trainer.start(config, data, tmp_path / "run")
    assert trainer.potential.shift.tolist() == [0.75, -3.5] and not trainer.potential.config.isolated_atoms
    assert "note" not in "\n".join(summary(trainer))
    everything = np.concatenate([trainer.sources.train, trainer.sources.valid])
    assert np.array_equal(np.sort(everything), np.arange(14))


def test_from_an_extxyz_file(tmp_path):
    """Through `convert`, whose group is the config_type."""
    toys, lines = toy_dataset(), []
    for k in range(len(toys)):
        atoms = toys.atoms(k)
        lines.append(
            f'4\nLattice="6 0 0 0 6 0 0 0 6" Properties=species:S:1:pos:R:3:forces:R:3 '
            f'energy={toys.energy[k]} pbc="T T T"'
        )
        rows = zip(atoms.symbols, atoms.positions, atoms.get_forces(), strict=True)
        lines += [" ".join([s, *map(str, p), *map(str, f)]) for s, p, f in rows]
    for symbol, energy in TABLE.items():
        lines += [
            "1",
            f'Properties=species:S:1:pos:R:3:forces:R:3 energy={energy} config_type=isolatedatom pbc="F F F"',
            f"{symbol} 0 0 0 0 0 0",
        ]
    (tmp_path / "all.xyz").write_text("\n".join(lines) + "\n")
    convert([tmp_path / "all.xyz"], tmp_path / "all.h5")
    trainer = Trainer.start(settings(), tmp_path / "all.h5", tmp_path / "run")
    told = "energies of isolated atoms, from 2 frames not to be trained on: H 0.75, O -3.5 eV"
    assert told in "\n".join(summary(trainer))
    trainer.run()
    model = Potential.load(tmp_path / "run/model.h5")
    assert {s: model.evaluate(lone(s)).energy for s in TABLE} == TABLE
    assert "isolated atoms" in model.provenance["shifts"] and not model.provenance["note"]


def test_the_draw_is_that_of_the_other_frames(tmp_path):
    first = isolated("O", [-3.5], "Isolated_Atom", box=30.0)
    data = written(tmp_path / "a.h5", first, toy_dataset(), isolated("H", [0.75]))
    plain = written(tmp_path / "b.h5", toy_dataset())
    with_, without = (
        Trainer.start(settings(n_train=7), path, tmp_path / path.stem).sources for path in (data, plain)
    )
    assert np.array_equal(with_.train, without.train + 1)
    assert np.array_equal(with_.valid, without.valid + 1)
    other = written(tmp_path / "c.h5", toy_dataset(5, seed=7))
    drawn = Trainer.start(settings(n_valid=2), data, tmp_path / "c", valid=other).sources
    assert np.array_equal(drawn.train, np.arange(1, 13)) and len(drawn.valid) == 2


def test_resumed_equals_unbroken(tmp_path):
    data = written(tmp_path / "a.h5", toy_dataset(), isolated("HO", [0.75, -3.5]))
    config = settings(schedule="plateau")
    Trainer.start(config, data, tmp_path / "unbroken").run()
    Trainer.start(config.replace({"train": {"max_epochs": 2}}), data, tmp_path / "broken").run()
    resumed = Trainer.resume(config, tmp_path / "broken")
    assert "energies of isolated atoms" in "\n".join(summary(resumed))
    resumed.run()
    for name in ("model.h5", "checkpoint.h5"):
        assert same_arrays(tmp_path / "unbroken" / name, tmp_path / "broken" / name)
    off = config.replace({"model": {"isolated_atoms": False}})
    with pytest.raises(UserError, match="model.isolated_atoms: expected True as the run began, found False"):
        Trainer.resume(off, tmp_path / "broken")


def test_runs_from_before_go_on_without(tmp_path):
    """Their checkpoints have no such key, whatever their shifts."""
    data, off = written(tmp_path / "a.h5", toy_dataset()), {"model": {"isolated_atoms": False}}
    config = settings(shifts=TABLE, schedule="plateau")
    Trainer.start(config.replace(off), data, tmp_path / "unbroken").run()
    Trainer.start(config.replace(off | {"train": {"max_epochs": 2}}), data, tmp_path / "broken").run()
    with h5py.File(unsealed(tmp_path / "broken/checkpoint.h5"), "r+") as file:
        content = json.loads(file.attrs["content"])
        del content["config"]["model"]["isolated_atoms"], content["provenance"]["shifts"]
        file.attrs["content"] = json.dumps(content)
    Trainer.resume(config, tmp_path / "broken").run()
    assert same_arrays(tmp_path / "unbroken/model.h5", tmp_path / "broken/model.h5")


@pytest.mark.parametrize(
    ("symbols", "energies", "told"),
    [
        ("H", [0.75], "there is none of O; the shifts are fitted"),
        ("HOO", [0.75, -3.5, -2.1], "those of O differ by more than 1 meV; the shifts are fitted"),
    ],
)
def test_too_few_or_contradictory_ones_are_told_and_left_alone(tmp_path, symbols, energies, told):
    data = written(tmp_path / "a.h5", toy_dataset(), isolated(symbols, energies))
    trainer = Trainer.start(settings(), data, tmp_path / "run")
    assert told in "\n".join(summary(trainer)) and not trainer.potential.config.isolated_atoms
    off = settings().replace({"model": {"isolated_atoms": False}})
    drawn = choose_frames(off, read_dataset(data), None)
    for found, expected in zip((trainer.sources.train, trainer.sources.valid), drawn, strict=True):
        assert np.array_equal(found, expected)


def test_a_table_that_contradicts_the_frames_is_told(tmp_path):
    data = written(tmp_path / "a.h5", toy_dataset(), isolated("HO", [0.75, -2.1]))
    trainer = Trainer.start(settings(shifts=TABLE), data, tmp_path / "run")
    assert "have others: O -2.1 eV" in "\n".join(summary(trainer))
    assert trainer.potential.shift.tolist() == list(TABLE.values())


def test_true_with_fitted_shifts(tmp_path):
    """Who asks for it gets it, and is told what the energy is."""
    config = settings().replace({"model": {"isolated_atoms": True}})
    trainer = Trainer.start(config, written(tmp_path / "a.h5", toy_dataset()), tmp_path / "run")
    assert "there is none of H O; the shifts are fitted" in "\n".join(summary(trainer))
    assert trainer.potential.evaluate(lone("O")).energy == trainer.potential.shift[1]


def test_what_an_isolated_atom_is():
    toys, cutoff = toy_dataset(2), 3.5
    frames = [
        isolated("H", [1.0]),
        isolated("H", [1.0], group="isolated_atom"),
        isolated("H", [1.0], box=3.6),
        isolated("H", [1.0], box=3.4),  # has neighbours
        isolated("H", [np.nan]),
        isolated("H", [1.0], group="dimer"),
        replace(toys.subset([0]), group=np.array(["IsolatedAtom"], object)),
    ]
    assert isolated_frames(concatenate(frames), cutoff).tolist() == [0, 1, 2]
    assert not len(isolated_frames(replace(toys, group=None), cutoff))
    nothing_else = decide(settings(), concatenate(frames[:3]).subset([0, 1]))
    assert not nothing_else.exact and not nothing_else.note and not len(nothing_else.told)
