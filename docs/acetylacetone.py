"""Numbers of the page on acetylacetone:

python docs/acetylacetone.py acac/model.h5 acac_test.h5 numbers.json

The page and its picture read docs/acetylacetone.json.
"""

import json
import sys

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from eqpot import Potential
from eqpot.files import replacing
from eqpot.kernels.edge_geometry import edge_geometry_bwd_cpu
from eqpot.kernels.forces import forces_cpu
from eqpot.kernels.interaction import interaction_bwd_cpu
from eqpot.network.model import PATHS, Model
from eqpot.network.ops import Operator, operators
from eqpot.network.pool import Pool
from eqpot.network.tape import Node, Tape
from eqpot.structures.data import read_dataset
from eqpot.structures.graph import Batch, collate, frame_graph

WITH_DIRECTION = (1, 3, 4)
EVERYTHING = 100.0  # Å: a graph in which every pair has an edge; beyond the cutoff its weights are zero
FRAMES = 40
ANGLES = np.linspace(-20, 20, 41)  # degrees


def record(potential: Potential, batch: Batch, table=None) -> tuple[Tape, Node, Node]:
    """The network on a tape, in float64; also the nodes of the edge vectors and of x[n, 1]."""
    model = Model(potential.config, len(potential.species), potential.mean_neighbours)
    tape, edge_vec = Tape(table or operators("cpu"), Pool(np.float64)), Node(batch.edge_vec)
    nodes = {name: Node(array.astype(np.float64)) for name, array in potential.params.items()}
    return tape, edge_vec, model.record(tape, nodes, batch, edge_vec)


def forces_by_path(potential: Potential, atoms: Atoms) -> tuple[np.ndarray, dict[tuple, np.ndarray]]:
    """Forces [n, 3] (eV/Å) through distances, and through directions by (block, path), blocks from 1."""
    batch = collate([potential.graph(atoms)], len(potential.species))
    tape, edge_vec, x = record(potential, batch)
    tape.reverse({x: potential.scale[batch.species][:, None]}, [edge_vec])
    _, _, (r, unit), _ = next(step for step in tape.steps if step[0].name == "edge_geometry")
    no_dr, no_dunit = np.zeros_like(r.value), np.zeros_like(unit.value)

    def forces(dr: np.ndarray, dunit: np.ndarray) -> np.ndarray:
        d, found, result = np.zeros_like(edge_vec.value), *np.empty((2, len(atoms), 3))
        edge_geometry_bwd_cpu(d, dr, dunit, edge_vec.value)
        forces_cpu(found, d, batch.receiver_ptr, batch.sender_perm, batch.sender_ptr)
        result[batch.order] = found
        return result

    across = {}
    convolutions = [step for step in tape.steps if step[0].name == "interaction"]
    for block, (_, inputs, (ms, mv), (*graph, paths)) in enumerate(convolutions, 1):
        for path in WITH_DIRECTION:
            if paths[path, 0] >= 0:
                alone, dunit = np.full((5, 2), -1), no_dunit.copy()
                alone[path] = paths[path]
                values = [node.value for node in inputs]
                interaction_bwd_cpu(None, None, dunit, None, ms.d, mv.d, *values, *graph, alone)
                across[block, PATHS[path]] = forces(no_dr, dunit)
    return forces(r.d, no_dunit), across


def energy(potential: Potential, distances: Atoms, directions: Atoms) -> float:
    """eV: of a network that is shown the distances of one geometry and the directions of another."""
    graphs = [
        frame_graph(a.numbers, a.positions, a.cell[:], a.pbc, potential.species, EVERYTHING)
        for a in (distances, directions)
    ]
    batch, other = (collate([graph], len(potential.species)) for graph in graphs)

    def fwd(r, unit, edge_vec):
        r[...] = np.linalg.norm(batch.edge_vec, axis=1)
        unit[...] = np.sqrt(3) * other.edge_vec / np.linalg.norm(other.edge_vec, axis=1, keepdims=True)

    shown = Operator("edge_geometry", fwd, None, None, None)
    _, _, x = record(potential, batch, operators("cpu") | {"edge_geometry": shown})
    return float(np.sum(potential.scale[batch.species] * x.value[:, 0] + potential.shift[batch.species]))


def carbonyl(atoms: Atoms) -> tuple[int, int, int]:
    """An oxygen without hydrogen, its carbon, and the methyl carbon next to that."""
    apart, reach = atoms.get_all_distances(), covalent_radii[atoms.numbers]
    bonded = (apart < 1.25 * (reach[:, None] + reach)) & (apart > 0)
    hydrogens = (bonded & (atoms.numbers == 1)).sum(axis=1)
    for oxygen in np.flatnonzero((atoms.numbers == 8) & (hydrogens == 0)):
        for carbon in np.flatnonzero(bonded[oxygen] & (atoms.numbers == 6)):
            for methyl in np.flatnonzero(bonded[carbon] & (hydrogens == 3)):
                return int(oxygen), int(carbon), int(methyl)
    raise ValueError("no carbonyl group beside a methyl group")


def bend(atoms: Atoms, by: float) -> Atoms:
    """The angle O-C-C of the carbonyl group opened by so many degrees; the oxygen moves, nothing else."""
    oxygen, carbon, methyl = carbonyl(atoms)
    bent = atoms.copy()
    bent.set_angle(methyl, carbon, oxygen, atoms.get_angle(methyl, carbon, oxygen) + by, indices=[oxygen])
    return bent


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def measure(potential: Potential, test_set: str) -> dict:
    """What the page shows; energies in eV, forces in eV/Å, angles in degrees."""
    dataset = read_dataset(test_set)
    frames = [dataset.atoms(k) for k in np.linspace(0, len(dataset) - 1, FRAMES).astype(int)]
    labels = np.concatenate([atoms.get_forces() for atoms in frames])
    model = Model(potential.config, len(potential.species), potential.mean_neighbours)

    def forces(potential: Potential) -> np.ndarray:
        return np.concatenate([result.forces for result in potential.evaluate(frames)])

    usual, off = forces(potential), {}
    for one in [*model.paths, *dict.fromkeys(path for _, path in model.paths)]:
        changed = forces(potential.without({one}))
        name = one if isinstance(one, str) else f"{one[0]}: {one[1]}"
        off[name] = {"force_change": rms(changed - usual), "force_error": rms(changed - labels)}

    parts = [forces_by_path(potential, atoms) for atoms in frames]
    along = np.concatenate([p for p, _ in parts])
    across = {key: np.concatenate([p[key] for _, p in parts]) for key in parts[0][1]}
    directions = sum(across.values())

    first = frames[0]
    bent = [bend(first, by) for by in ANGLES]
    curves = {
        "both": [energy(potential, atoms, atoms) for atoms in bent],
        "distances": [energy(potential, atoms, first) for atoms in bent],
        "directions": [energy(potential, first, atoms) for atoms in bent],
    }
    for path in PATHS[2:5]:
        cut = potential.without({path})
        curves[f"directions without {path}"] = [energy(cut, first, atoms) for atoms in bent]
    oxygen, carbon, methyl = carbonyl(first)
    return {
        "model": repr(potential),
        "frames": FRAMES,
        "force_error": rms(usual - labels),
        "forces": rms(usual),
        "forces through distances": rms(along),
        "forces through directions": rms(directions),
        "forces left over": rms(along + directions - usual),
        "shares of forces through directions": {
            f"{block}: {path}": float(np.sum(part * directions) / np.sum(directions**2))
            for (block, path), part in across.items()
        },
        "off": off,
        "angle": first.get_angle(methyl, carbon, oxygen),
        "bend": ANGLES.tolist(),
        "curves": {name: (np.array(c) - c[len(c) // 2]).tolist() for name, c in curves.items()},
    }


if __name__ == "__main__":
    model, test_set, output = sys.argv[1:]
    potential = Potential.load(model)
    if not potential.config.of_papers:
        sys.exit(f"{model}: expected a network of five products, found {potential!r}")
    with replacing(output) as temporary:
        temporary.write_text(json.dumps(measure(potential, test_set), indent=1) + "\n")
    print(f"wrote {output}")
