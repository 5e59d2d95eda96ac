"""How fast eqpot is on this machine: force calls and training steps."""

import platform
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from importlib import metadata
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from scipy.spatial.transform import Rotation

from eqpot.backend import card
from eqpot.calculator import EqpotCalculator
from eqpot.config import Config
from eqpot.errors import UserError
from eqpot.potential import Potential
from eqpot.threads import cores
from eqpot.timing import median_time, seconds_of
from eqpot.version import version

SPACING = 3.107  # Å between molecules on a cubic grid: water of 1 g/cm^3
TOLERANCE = 2e-5  # float32 forces against the float64 reference, relative to the largest


def machine(device: str = "cpu") -> dict[str, str | int]:
    """Processor, cores that this process may use, versions, and today's date; with "cuda" the GPU's, too."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": cores(),
        "python": platform.python_version(),
        "eqpot": version(),
        "numba": metadata.version("numba"),
        "date": date.today().isoformat(),
        **(card() if device == "cuda" else {}),
    }


def water(molecules_a_side: int) -> Atoms:
    """Turned molecules on a cubic grid: no liquid, but as many neighbours."""
    count = molecules_a_side**3
    one = molecule("H2O")
    shape = one.positions - one.get_center_of_mass()
    turned = Rotation.random(count, random_state=0).as_matrix() @ shape.T  # [count, 3, 3]: x, y, z by atom
    grid = SPACING * np.stack(np.unravel_index(np.arange(count), [molecules_a_side] * 3), axis=1)
    positions = (turned.swapaxes(1, 2) + grid[:, None]).reshape(-1, 3)
    return Atoms("OHH" * count, positions, cell=[SPACING * molecules_a_side] * 3, pbc=True)


def structures() -> dict[str, Atoms]:
    """What is timed where no structure is given."""
    return {"ethanol": molecule("CH3CH2OH"), "64 H2O": water(4), "512 H2O": water(8)}


def untrained(atoms: Atoms) -> Potential:
    """A potential with random weights and the default settings for these atoms."""
    potential = Potential.create(species=sorted(set(atoms.numbers.tolist())), seed=0)
    potential.mean_neighbours = max(len(potential.graph(atoms).senders) / len(atoms), 1.0)
    return potential


def force_calls(
    potential: Potential | None,
    systems: Mapping[str, Atoms],
    threads: Sequence[int],
    seconds: float,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Time calls of the ASE calculator for about `seconds` each, the atoms moved a little before every call.

    Without a potential, an untrained one with the default settings. UserError where float32 forces of a
    structure of up to 200 atoms, shaken, are not those of the NumPy reference.
    """
    rows = []
    for name, atoms in systems.items():
        model = potential or untrained(atoms).to(device)
        model.check(atoms, name)
        calculator = EqpotCalculator(model)
        start, random = atoms.positions.copy(), np.random.default_rng(0)
        moved = atoms.copy()
        moved.calc = calculator

        def call(moved=moved, start=start, random=random) -> None:
            moved.positions = start + random.normal(scale=0.003, size=start.shape)
            moved.get_forces()

        first = seconds_of(call)
        error = force_error(model, atoms) if len(atoms) <= 200 else None
        if error is not None and not error <= TOLERANCE:
            raise UserError(
                f"{name}: expected float32 forces within {TOLERANCE:g}, found an error of {error:g}"
            )
        for count in threads:
            rows.append(
                {
                    "kind": "force call",
                    "structure": name,
                    "atoms": len(atoms),
                    "threads": count,
                    "seconds": median_time(call, seconds, count),
                    "first_seconds": first,
                    "force_error": error,
                }
            )
    return rows


def training_steps(threads: Sequence[int], seconds: float, device: str = "cpu") -> list[dict[str, Any]]:
    """Time steps of five frames of the ethanol sample, default settings."""
    from eqpot.training.trainer import Trainer

    config = Config.from_dict({"train": {"batch_size": 5, "n_train": 100, "n_valid": 1}})
    sample = files("eqpot.data_tools") / "ethanol.h5"
    with as_file(sample) as path, tempfile.TemporaryDirectory() as folder:
        trainer = Trainer.start(config, path, folder, device=device)
        random = np.random.default_rng(0)

        def step() -> None:
            trainer.step(random.choice(100, 5, replace=False))

        first = seconds_of(step)
        return [
            {
                "kind": "training step",
                "structure": "training, 5 ethanol",
                "atoms": 45,
                "threads": count,
                "seconds": median_time(step, seconds, count),
                "first_seconds": first,
                "force_error": None,
            }
            for count in threads
        ]


def force_error(potential: Potential, atoms: Atoms) -> float:
    """Largest difference of the forces on shaken atoms from the NumPy reference in float64, over the largest.

    Forces below the potential's scale, its own unit of force (eV/Å), are compared with that: nothing is large
    in a crystal at rest.
    """
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=0)
    reference = potential.cast("float64", "ref")
    expected = reference.evaluate(atoms).forces
    largest = max(np.abs(expected).max(), potential.scale.max())
    return float(np.abs(potential.evaluate(atoms).forces - expected).max() / largest)
