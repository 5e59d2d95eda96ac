"""Ensembles: ASE's integrators as eqpot sets them up, and what temperature and pressure then are.

Temperature is 2 K / (f kB), f being the number of momenta that are free, see `freedom`. The chains get the
same f: ASE's own count of 3 N would keep a molecule at rest of n atoms hotter by n / (n - 2).
"""

import numpy as np
from ase import Atoms, units
from ase.constraints import FixAtoms, FixCom
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT, NoseHooverChainThermostat
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet

from eqpot.config import DynamicsConfig
from eqpot.errors import UserError


def integrator(config: DynamicsConfig, atoms: Atoms, random: np.random.Generator) -> MolecularDynamics:
    """ASE's, for atoms with momenta; the noise of Langevin's is from `random`.

    Noise would push the whole, which is held; the other integrators conserve its momentum.
    """
    step, kelvin, damping = config.timestep * units.fs, config.temperature, config.thermostat_time * units.fs
    if config.ensemble == "nve":
        return VelocityVerlet(atoms, step)
    if config.thermostat == "langevin":
        if not atoms.constraints:
            atoms.set_constraint(FixCom())
        return Langevin(atoms, step, temperature_K=kelvin, friction=1 / damping, fixcm=False, rng=random)
    free = freedom(config, atoms)
    if config.ensemble == "nvt":
        run = NoseHooverChainNVT(atoms, step, kelvin, damping)
    else:
        barostat = config.barostat_time * units.fs
        run = IsotropicMTKNPT(atoms, step, kelvin, config.pressure * units.bar, damping, barostat)
        run._num_atoms_global = free / 3  # N_f / d of Martyna, Tobias and Klein, J. Chem. Phys. 101, 4177
    run._thermostat = NoseHooverChainThermostat(free / 3, run.masses, kelvin, damping)
    return run


def conserves_rotation(config: DynamicsConfig, atoms: Atoms) -> bool:
    """Whether the angular momentum that the run begins with stays as it is, or in proportion."""
    return not (atoms.pbc.any() or fixed(atoms).size or config.thermostat == "langevin")


def freedom(config: DynamicsConfig, atoms: Atoms) -> int:
    """Components of the momenta that are free: not those of fixed atoms, nor, where the whole is at rest for
    good, its momentum and its angular momentum (two components for two atoms)."""
    count = 3 * _mobile(atoms)
    if not fixed(atoms).size:
        count -= 3
    if conserves_rotation(config, atoms):
        count -= 3 if len(atoms) > 2 else 2
    return max(count, 0)


def temperature(atoms: Atoms, free: int) -> float:
    """K, of `free` components of the momenta."""
    return 2 * atoms.get_kinetic_energy() / (free * units.kB)


def pressure(atoms: Atoms, free: int) -> float:
    """Bar; an atom has kB T / V, so that the momentum of the whole, which is none, counts with its mean."""
    ideal = _mobile(atoms) * units.kB * temperature(atoms, free) / atoms.get_volume()
    return (ideal - atoms.get_stress()[:3].mean()) / units.bar


def draw_momenta(config: DynamicsConfig, atoms: Atoms, random: np.random.Generator) -> None:
    """Maxwell's velocities, the whole at rest, scaled to the temperature."""
    width = np.sqrt(atoms.get_masses() * units.kB * config.temperature)
    atoms.set_momenta(width[:, None] * random.normal(size=(len(atoms), 3)))
    still(config, atoms)
    found = temperature(atoms, freedom(config, atoms))
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(config.temperature / found))


def still(config: DynamicsConfig, atoms: Atoms) -> None:
    """Take away the momentum and the angular momentum of the whole, as far as they would last."""
    if not fixed(atoms).size:
        Stationary(atoms, preserve_temperature=False)
    if conserves_rotation(config, atoms):
        with np.errstate(divide="ignore", invalid="ignore"):  # atoms on a line
            ZeroRotation(atoms, preserve_temperature=False)


def fixed(atoms: Atoms) -> np.ndarray:
    """Indices of fixed atoms."""
    indices = [c.index for c in atoms.constraints if isinstance(c, FixAtoms)]
    return np.unique(np.concatenate(indices)) if indices else np.empty(0, np.int64)


def _mobile(atoms: Atoms) -> int:
    return len(atoms) - fixed(atoms).size


def check(config: DynamicsConfig, atoms: Atoms, name: str) -> None:
    """UserError, beginning with `name`, at atoms that the ensemble does not take."""
    if config.ensemble == "npt" and not atoms.pbc.all():
        raise UserError(
            f"{name}: --ensemble: expected a structure periodic in all three directions for npt, "
            f"found pbc {atoms.pbc.tolist()}"
        )
    for constraint in atoms.constraints:
        kind = type(constraint).__name__
        if not isinstance(constraint, FixAtoms | FixCom):
            raise UserError(f"{name}: constraints: expected fixed atoms at most, found {kind}")
        if isinstance(constraint, FixAtoms) and config.ensemble != "nve" and config.thermostat != "langevin":
            raise UserError(
                f"{name}: constraints: expected none with a Nosé-Hoover chain, found {kind}; "
                "ensemble nve and thermostat langevin take fixed atoms"
            )
    if freedom(config, atoms) == 0:
        raise UserError(f"{name}: expected atoms that can move against each other, found {len(atoms)}")
