"""Recipes: every file is read, every command in its head is one, and those with data at hand run."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import ase.io
import numpy as np
import pytest
from command_lines import check_command, commands_in

from eqpot.cli import main
from eqpot.config import Config
from eqpot.data_tools.recipe import recipes
from eqpot.structures.data import read_dataset

RECIPES = recipes()
COMMANDS = {name: commands_in(recipe.text, "#   ") for name, recipe in RECIPES.items()}
DATA = Path(os.environ.get("EQPOT_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "data"))

# What stands for the files that a recipe names; the folder at hand may hold a part of them only.
SOURCES = {
    "rmd17": {
        f"rmd17_aspirin_{part}_01.npz": f"rmd17/rmd17_aspirin_{part}_01.npz" for part in ("train", "test")
    },
    "ccsdt": {
        f"ethanol_ccsd_t-{part}.npz": "ethanol_ccsdt/ethanol_ccsd_t-train.npz" for part in ("train", "test")
    },
    "water_ice": {
        phase: f"water_pbe0ts/data_{k}"
        for phase, k in zip(("liquid", "ice_b", "ice_c", "ice_d"), (0, 1, 2, 0), strict=True)
    },
    "water": {"dataset_1593.xyz": "water_revpbe0/dataset_1593.xyz"},
    "formate": {"fcu.xyz": "formate_cu110/deal_0.05_selected.xyz"},
    "lipo": {f"lipo-{part}.xyz": f"lipo/lipo-{part}.xyz" for part in ("melt", "quench")},
    "lips": {"lips.xyz": "lips/lips_200.npz"},
}

# Appended to a command: the last of two equal options counts.
SHORTER = {
    "data split": "--train 5 --valid 2 --test 2",
    "fit": "--n-train 4 --n-valid 2 --max-epochs 1 --set model.features=4 --set model.blocks=2 "
    "--set model.radial_width=4",
    "md": "--length 60 --write-every 1 --min-distance 0",
    "analyze msd": "--skip 0",
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_is_read_and_its_commands_exist(recipe):
    assert recipe.config != Config() and recipe.data.startswith("http") and "://" not in recipe.system
    assert recipe.config.loss.stress == 0 or recipe.name in ("rmd17", "ccsdt")  # molecules have none
    assert max(map(len, recipe.text.splitlines())) <= 110
    kinds = [line.split()[1] for line in COMMANDS[recipe.name]]
    assert kinds[0] == "data" and {"fit", "eval"} <= set(kinds)
    (fit,) = (line for line in COMMANDS[recipe.name] if line.startswith("eqpot fit "))
    assert f"--config {recipe.name}.toml" in fit
    for line in COMMANDS[recipe.name]:
        check_command(line)


def test_weights_are_those_of_the_paper():
    """Its errors are of whole energies, weight 1; ours are per atom, so the ratio gets N^2."""
    paper = {  # atoms, weight of the forces
        "rmd17": (21, 1000),
        "ccsdt": (9, 1000),
        "water_ice": (192, 100_000),
        "water": (192, 36_864),
        "formate": (52, 2704),
        "lipo": (208, 43_264),
        "lips": (83, 6889),
    }
    assert set(paper) == set(RECIPES)
    for name, (atoms, weight) in paper.items():
        loss = RECIPES[name].config.loss
        assert loss.energy / loss.forces == pytest.approx(atoms**2 / weight, rel=5e-3), name


def test_the_command_lists_and_prints_them(capsys):
    assert main(["data", "recipes"]) == 0
    listed = capsys.readouterr().out
    for recipe in RECIPES.values():
        assert f"{recipe.name:<10} {recipe.system}\n" in listed and recipe.data in listed
    assert main(["data", "recipes", "lips"]) == 0
    assert capsys.readouterr().out == RECIPES["lips"].text
    assert main(["data", "recipes", "lip"]) == 2
    assert capsys.readouterr().err == "error: lip: no recipe of that name, did you mean 'lips'?\n"


def test_water_in_atomic_units(tmp_path, monkeypatch, capsys):
    """The layout of `dataset_1593.xyz`, as its first command reads it."""
    monkeypatch.chdir(tmp_path)
    atoms = "O 0 0 0 0 0 0.02 8\nH 1.8 0 0 0 0 -0.01 1\nH 0 1.8 0 0 0 -0.01 1\n"
    cell, columns = "20 0 0 0 20 0 0 0 20", "species:S:1:pos:R:3:force:R:3:Z:I:1"
    head = f'TotEnergy=-17.0 pbc="T T T" Lattice="{cell}" Properties={columns}'
    Path("dataset_1593.xyz").write_text(f"3\n{head}\n{atoms}")
    assert main(shlex.split(COMMANDS["water"][0])[1:]) == 0
    water = read_dataset("water.h5")
    np.testing.assert_allclose(water.energy, -17.0 * 27.211386, rtol=1e-6)
    np.testing.assert_allclose(water.cell[0], 20 * 0.52917721 * np.eye(3), rtol=1e-6)
    np.testing.assert_allclose(water.positions[1], [1.8 * 0.52917721, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(water.forces[0], [0, 0, 0.02 * 27.211386 / 0.52917721], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_commands_run(recipe, tmp_path, monkeypatch):
    """As printed, from the data to the last of them, but with few frames and a small network."""
    sources = {name: DATA / path for name, path in SOURCES[recipe.name].items()}
    if missing := [str(path) for path in sources.values() if not path.exists()]:
        pytest.skip(f"no {missing[0]}: name the folder of the published data sets in EQPOT_DATA")
    monkeypatch.chdir(tmp_path)
    for name, path in sources.items():
        if Path(name).suffix == path.suffix:
            Path(name).symlink_to(path.resolve())
        else:
            assert main(["data", "convert", str(path), "all.h5"]) == 0
            frames = read_dataset("all.h5")
            ase.io.write(name, [frames.atoms(k) for k in range(len(frames))])
    Path(f"{recipe.name}.toml").write_text(recipe.text)
    for line in COMMANDS[recipe.name]:
        more = next((words for start, words in SHORTER.items() if line.startswith(f"eqpot {start} ")), "")
        assert main(shlex.split(f"{line} {more}")[1:]) == 0, line
