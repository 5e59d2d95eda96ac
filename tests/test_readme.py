"""The README's Python runs as it is printed, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from command_lines import check_command, commands_in

from eqpot import Potential
from eqpot.cli import main
from eqpot.dynamics import check
from eqpot.structures.data import Dataset, write_dataset

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SHELL = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = commands_in("".join(SHELL))


def run(text: str) -> dict:
    names: dict = {}
    exec(compile(text, "README.md", "exec"), names)
    return names


def test_there_are_examples():
    assert len(EXAMPLES) == 2 and len(COMMANDS) >= 4


@pytest.mark.parametrize("text", [text for text in EXAMPLES if "eqpot.Potential" in text])
def test_python_use(text: str):
    result = run(text)["result"]
    assert np.isfinite(result.energy) and result.forces.shape == (9, 3) and result.stress is None
    assert np.isclose(result.energies.sum(), result.energy)


@pytest.mark.parametrize("text", [text for text in EXAMPLES if "eqpot.kernels" in text])
def test_kernels_alone(text: str):
    """Imports nothing of eqpot but the kernels; its forces are minus the gradient of its energy."""
    assert set(re.findall(r"(?:from|import) (eqpot\S*)", text)) == {"eqpot.kernels"}
    names = run(text)
    energy_and_forces, positions, forces = names["energy_and_forces"], names["water"], names["forces"]
    assert names["energy"] == energy_and_forces(positions)[0]
    assert np.abs(forces).max() > 0.1, "the example should show forces"
    assert np.abs(forces.sum(axis=0)).max() < 1e-12

    step, random = 1e-4, np.random.default_rng(1)
    for _ in range(4):
        moved = positions + 0.05 * random.normal(size=positions.shape)
        direction = random.normal(size=positions.shape)
        energies = [energy_and_forces(moved + k * step * direction)[0] for k in (-2, -1, 1, 2)]
        slope = np.dot(energies, [1, -8, 8, -1]) / (12 * step)
        expected = -np.sum(energy_and_forces(moved)[1] * direction)
        assert abs(slope - expected) <= 1e-8 * np.abs(forces).max()

    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    turned_energy, turned_forces = energy_and_forces(positions @ turn)
    assert np.isclose(turned_energy, names["energy"], rtol=1e-12)
    assert np.allclose(turned_forces, forces @ turn, rtol=0, atol=1e-11 * np.abs(forces).max())


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str):
    """Every command and option that the README shows is one that the command line knows."""
    check_command(line)


def test_use_it_runs_on_what_it_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ethanol and a weak, untrained model stand for the fitted one; runs are short, and cold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "STEPS", 8)
    potential = Potential.create(["C", "H", "O"], features=8, blocks=2, cutoff=3.5)
    potential.scale[:] = 1e-4
    Path("acac").mkdir()
    potential.save("acac/model.h5")
    atoms = molecule("CH3CH2OH")
    geometry = atoms.numbers, atoms.positions, np.zeros((1, 3, 3)), np.zeros((1, 3), bool)
    write_dataset("acac_test.h5", Dataset(np.array([0, 9]), *geometry))
    commands = commands_in(re.search(r"^## Use it\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)[1])
    assert len(commands) >= 7
    for line in commands:
        short = re.sub(r"(?<=--length \d\d)ps", "", line).replace("--temperature 300", "--temperature 1")
        assert main(shlex.split(short)[1:]) == 0 or "check" in line, line
    assert {"relaxed.extxyz", "report.html", "dynamics", "adf.png"} < {path.name for path in Path().iterdir()}
