"""What a potential does inside, for one structure: every intermediate by name, and what each path is worth.

A path is one of the products of a neighbour's features with an edge (kernels/products.py) in one of the
blocks. Blocks count from 1; arrays of atoms are in the order of the structure. All is computed in float64,
whatever the potential's own precision, so that sums hold to round-off.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from scipy.integrate import quad_vec
from scipy.spatial.transform import Rotation
from scipy.special import roots_legendre

from eqpot.errors import UserError
from eqpot.kernels import reference
from eqpot.kernels.activation import SSP
from eqpot.kernels.compile import announce
from eqpot.kernels.products import PATH_FACTORS
from eqpot.network.labels import Dense
from eqpot.network.model import PATHS
from eqpot.network.named import NamedStages
from eqpot.network.ops import operators
from eqpot.network.pool import Pool
from eqpot.network.steps import path_alone, steps
from eqpot.network.tape import Node, Tape
from eqpot.potential import Potential
from eqpot.structures.graph import collate
from eqpot.timing import median_time

NODES = (24, 48, 96)  # of the integral over the messages' strength
CONVERGED = 1e-14  # what the shares may miss of the energy, relative to the sizes of all terms
DIVIDED, PIECES = 1e-12, 200  # the same, where the line must be divided; into so many pieces
RADII = 200  # distances at which radial functions are shown
SECONDS = 0.02  # for the time of each path


@dataclass(frozen=True)
class Quantity:
    """An intermediate: `axes` names the sizes of the array (n atoms, E edges), `unit` is "" for none."""

    array: np.ndarray
    axes: str
    unit: str
    meaning: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


@dataclass(frozen=True)
class Contributions:
    """An energy (eV), and its parts: energy_rest, and shares[block, path] of the receiving atoms [n]."""

    energy: float
    energy_rest: float
    shares: dict[tuple[int, str], np.ndarray]


@dataclass(frozen=True)
class PathResult:
    """What one path of one block does.

    block: from 1; path: one of PATHS. message_norm: root mean square over the atoms of the norm of the summed
    message, before the self-interaction that also divides by sqrt(mean number of neighbours); no unit.
    energy_share (eV), energy_shares [n] (eV, by the atom that receives the message): see
    `path_contributions`. energy_change_off (eV), force_change_off (eV/Å, root mean square over components):
    the energy and the forces with this path alone switched off, less those of the whole. operations: of its
    products and their derivatives in one force call, as counted in `eqpot.network.steps`, without the radial
    network and the matrices. seconds: median time of these, by the operator `interaction`, `interaction2` or
    `interaction3`, forward and back with this path alone, in the potential's precision and on as many threads
    as Numba is set to; NaN where it was not measured. The compiled force call takes all paths of an edge
    together, so this is the cost of a path by itself, not what leaving it out would save.
    """

    block: int
    path: str
    message_norm: float
    energy_share: float
    energy_shares: np.ndarray
    energy_change_off: float
    force_change_off: float
    operations: int
    seconds: float


@dataclass(frozen=True)
class Inspection:
    """A structure as a potential sees it.

    name: of the structure; model: one line about the potential. energy (eV), energies [n] (eV), forces [n, 3]
    (eV/Å); energy_rest (eV): see `path_contributions`. paths: those that the model has, block by block.
    scalars [n, C], vectors [n, 3, C] (C = 0 where there are none): features after the embedding and after
    each block. rotation [3, 3]: a proper rotation R, row vectors turn as x @ R.T; rotated_vectors: vectors
    computed anew from the rotated structure. radii [M] (Å), radial[block, path] [M, C]: the learned functions
    w_p(r), with the path's constant. distances [E] (Å): those that occur, each in both directions. neighbours
    of each atom: (neighbour, distance in Å), the nearest first, periodic images each by themselves.

    equivariance, of each block's output: {"block": k, "rotation": x, "mirror": y, "permutation": z}, the
    largest deviation of its features from what the symmetry demands, over its largest feature. Under
    "rotation" scalars must stay and vectors turn. Under "mirror" (a reflection) even scalars must stay, odd
    ones change sign, polar vectors be reflected, axial ones be reflected and change sign: promised by o3,
    which labels its channels so, and by l_max 0. so3 promises no mirror and has no labels: there every scalar
    is held to be even and every vector polar, true until the first cross product, and the deviation shows how
    far the cross product leads away from it. Under "permutation" features follow the order of the atoms.
    """

    name: str
    model: str
    atoms: Atoms
    energy: float
    energies: np.ndarray
    forces: np.ndarray
    energy_rest: float
    paths: list[PathResult]
    scalars: list[np.ndarray]
    vectors: list[np.ndarray]
    rotation: np.ndarray
    rotated_vectors: list[np.ndarray]
    radii: np.ndarray
    radial: dict[tuple[int, str], np.ndarray]
    distances: np.ndarray
    neighbours: list[list[tuple[int, float]]]
    equivariance: list[dict[str, float]]


def trace(model: Potential | str | Path, atoms: Atoms) -> dict[str, Quantity]:
    """Every intermediate of the network by name, in the order in which they are made.

    model: a potential or the path of a model file. Names and formulas are those of `eqpot explain`; arrays of
    edges come by receiver, then sender, numbered as in `atoms`; block{k}.w has the block's paths in the order
    of PATHS. UserError as in `Potential.evaluate`, and at a structure without atoms.
    """
    network = _Network(model, atoms)
    batch, alone = network.batch, network.record(0.0)[1]["x"].value.copy()
    nodes = network.record()[1]
    found = {name: node.value for name, node in nodes.items()} | {"x0": alone}
    for (k, path), messages, columns in network.messages(nodes):
        found[f"block{k}.message.{path}"] = messages.value[..., columns]
    prediction = network.potential.predict(batch)
    found |= {"energies": prediction.energies, "forces": prediction.forces}
    receivers, senders = batch.order[batch.receivers], batch.order[batch.senders]
    rows = {"n": np.argsort(batch.order), "E": np.lexsort((senders, receivers))}
    quantities = {
        "receivers": Quantity(receivers[rows["E"]], "[E]", "", "number of the atom that receives: i"),
        "senders": Quantity(senders[rows["E"]], "[E]", "", "number of the atom that sends: j"),
    }
    for step in steps(network.model):
        array = found[step.name].reshape(-1, *step.shape[1:])[rows[step.shape[0]]]
        quantities[step.name] = Quantity(array, step.axes, step.unit, f"{step.meaning}: {step.formula}")
    return quantities


def path_contributions(model: Potential | str | Path, atoms: Atoms) -> Contributions:
    """The energy as a sum over paths and receiving atoms, and a rest; exact to round-off.

    Integrated gradients (Sundararajan, Taly, Yan, "Axiomatic attribution for deep networks", ICML 2017; for
    shared costs: Aumann and Shapley 1974). Let E(a) be the energy with the messages of path p of block k
    multiplied by a_kp. On the straight line from no messages, all a = 0, to the network, all a = 1,

        E(1) = E(0) + sum over k, p of share_kp,    share_kp = integral over t of dE/da_kp at a = (t, ..., t)

    and dE/da_kp = sum over atoms i and channels of m_kp,i · dE/d(a_kp m_kp,i), which one walk forward and one
    back give for all paths and atoms. E(a) is analytic, so that Gauss and Legendre's rule converges
    exponentially: nodes are doubled until the shares miss E(1) - E(0) by round-off only. Where dE/da changes
    too fast for 96 of them, as it may where products of sums pass through nonlinearities, SciPy's adaptive
    rule divides the line.

    What it means. energy_rest is the energy of atoms that hear nothing of each other: embedding,
    self-connections, readout and shifts, or shifts alone with `isolated_atoms`, besides ZBL's repulsion. A
    share is what a path adds while all paths grow together at one rate. Axioms single this division out
    (Mirman and Tauman, Math. Oper. Res. 7, 40, 1982), among them: what has no effect gets nothing, shares of
    a sum of energies are sums of shares, and a path cut into parts, by atom or by channel, gets what its
    parts get together.

    What it does not mean. A share is not the change when the path is switched off: where paths need each
    other, as 1x1->0 needs the vectors of 0x1->1, their common effect is lost with either, so such changes
    count it twice, while shares divide it. The line is a convention, and E with half the messages no state
    that training has seen. And the shares of atoms belong to who receives a message, not to the atom whose
    energy it moves in the end.

    Raises UserError as `trace` does, and where the integral does not converge.
    """
    return _contributions(_Network(model, atoms))


def inspect_structure(
    potential: Potential | str | Path, atoms: Atoms, name: str = "", timing: bool = True
) -> Inspection:
    """All that the report shows about a structure; `name` is what to call it, without `timing` no time is
    measured.

    Takes 16 bytes of memory for each edge, path and channel, and some fifty walks through the network.
    UserError as in `path_contributions`.
    """
    network = _Network(potential, atoms)
    model, batch = network.model, network.batch
    whole = network.potential.predict(batch)
    contributions = _contributions(network)
    energies, forces = network.by_atom(whole.energies), network.by_atom(whole.forces)

    tape, found = network.record()
    scalars, vectors = network.features(found)
    norms = {
        path: float(np.linalg.norm(messages.value[..., columns]) / np.sqrt(len(atoms)))
        for path, messages, columns in network.messages(found)
    }
    seconds = _times(network, tape) if timing else dict.fromkeys(model.paths, float("nan"))
    counted = {step.name: step.operations.of(len(atoms), batch.edge_count) for step in steps(model)}
    paths = []
    for block, path in model.paths:
        off = network.potential.without({(block, path)}).predict(batch)
        shares = contributions.shares[block, path]
        paths.append(
            PathResult(
                block=block,
                path=path,
                message_norm=norms[block, path],
                energy_share=float(shares.sum()),
                energy_shares=shares,
                energy_change_off=float(off.energy[0] - whole.energy[0]),
                force_change_off=float(np.sqrt(np.mean((off.forces - whole.forces) ** 2))),
                operations=counted[f"block{block}.message.{path}"],
                seconds=seconds[block, path],
            )
        )

    rotation = Rotation.random(random_state=0).as_matrix()
    equivariance, rotated_vectors = _equivariance(network, atoms, scalars, vectors, rotation)
    distances = np.linalg.norm(batch.edge_vec, axis=1)
    neighbours: list[list[tuple[int, float]]] = [[] for _ in atoms]
    for e in np.argsort(distances, kind="stable"):
        receiver, sender = batch.order[batch.receivers[e]], batch.order[batch.senders[e]]
        neighbours[receiver].append((int(sender), float(distances[e])))
    radii = np.linspace(0, network.potential.config.cutoff, RADII + 1)[1:]
    return Inspection(
        name=name,
        model=network.about,
        atoms=atoms.copy(),
        energy=contributions.energy,
        energies=energies,
        forces=forces,
        energy_rest=contributions.energy_rest,
        paths=paths,
        scalars=scalars,
        vectors=vectors,
        rotation=rotation,
        rotated_vectors=rotated_vectors,
        radii=radii,
        radial=_radial(network, radii),
        distances=distances,
        neighbours=neighbours,
        equivariance=equivariance,
    )


# ------------------------------------------------------------ the network, run by hand


class _Network:
    """A potential in float64 on one structure, of which the tape is at hand."""

    def __init__(self, model: Potential | str | Path, atoms: Atoms):
        if not isinstance(atoms, Atoms) or len(atoms) == 0:
            found = "no atoms" if isinstance(atoms, Atoms) else type(atoms).__name__
            raise UserError(f"atoms: expected an ase.Atoms with at least one atom, found {found}")
        given = model if isinstance(model, Potential) else Potential.load(model)
        self.about, self.dtype = repr(given), given.dtype
        self.potential = p = given.cast("float64", "cpu")
        self.batch = collate([p.graph(atoms)], len(p.species))
        self.model = p.model
        self._operators = operators("cpu")
        self._pool = Pool(np.dtype(np.float64))
        announce(self._operators[p.config.nonlinearity].fwd)

    def record(self, strength: float = 1.0) -> tuple[Tape, dict[str, Node]]:
        """The tape and every array by name, the weights, too, with all messages times `strength`, see
        `NamedStages`. Arrays hold until the next `record`."""
        self._pool.release()
        tape = Tape(self._operators, self._pool)
        nodes = {name: Node(array) for name, array in self.potential.params.items()}
        stages = NamedStages(self.model, nodes, self.batch, strength)
        self.model.record(tape, nodes, self.batch, Node(self.batch.edge_vec), lambda *_: stages)
        return tape, stages.found | {f"weights.{name}": node for name, node in nodes.items()}

    def energies(self, strength: float) -> np.ndarray:
        """The network's part of the energies [n], eV, in the batch's order."""
        return self.scale * self.record(strength)[1]["x"].value[:, 0]

    @property
    def scale(self) -> np.ndarray:
        """eV, of each atom in the batch's order."""
        return self.potential.scale[self.batch.species]

    def slopes(self, strength: float) -> np.ndarray:
        """dE/da of every path by receiving atom, eV, [paths, n] in the batch's order, where all a = strength.

        The matrices after the messages hold the strength: what they give back is a dE/d(a m).
        """
        tape, found = self.record(strength)
        # From x to the embedding goes through all messages, and through neither distances nor directions.
        tape.reverse({found["x"]: self.scale[:, None]}, [found["weights.embedding"]])
        rows = [
            np.sum(m.value[..., columns] * m.d[..., columns], axis=tuple(range(1, m.value.ndim)))
            for _, m, columns in self.messages(found)
        ]
        return np.array(rows) / strength

    def messages(self, found: Mapping[str, Node]) -> Iterator[tuple[tuple[int, str], Node, slice]]:
        """((block, path), summed messages of its l, the path's columns) of every path, in order."""
        C = self.model.config.features
        for (k, path), (_, place) in self.model.paths.items():
            messages = found[f"block{k}.m{'svto'[int(path[-1])]}"]
            yield (k, path), messages, slice(place * C, (place + 1) * C)

    def features(self, found: Mapping[str, Node]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Scalars [n, C] and vectors [n, 3, C] after the embedding and each block."""
        blocks, first = range(1, self.model.config.blocks + 1), found["embedding"].value
        scalars = [first, *(found[f"block{k}.s"].value for k in blocks)]
        vectors = [np.empty((len(first), 3, 0)), *(found[f"block{k}.v"].value for k in blocks)]
        return [self.by_atom(s) for s in scalars], [self.by_atom(v) for v in vectors]

    def by_atom(self, rows: np.ndarray) -> np.ndarray:
        """A copy, from the batch's order to the structure's."""
        found = np.empty_like(rows)
        found[self.batch.order] = rows
        return found


# ------------------------------------------------------------ what a path is worth, and what it costs


def _contributions(network: _Network) -> Contributions:
    potential, batch = network.potential, network.batch
    alone, whole = network.energies(0.0), network.energies(1.0)
    gained = whole.sum() - alone.sum()
    for count in NODES:
        places, weights = roots_legendre(count)  # on -1 to 1
        shares = sum(w / 2 * network.slopes((1 + t) / 2) for t, w in zip(places, weights, strict=True))
        size = sum(np.abs(energies).sum() for energies in (shares, alone, whole))
        if abs(shares.sum() - gained) <= CONVERGED * size:
            break
    else:
        shares, _ = quad_vec(network.slopes, 0, 1, epsabs=DIVIDED * size, epsrel=0, norm="max", limit=PIECES)
        if not abs(shares.sum() - gained) <= DIVIDED * size:
            raise UserError(
                f"the shares of the paths: expected them to sum to {gained:.9g} eV, found "
                f"{shares.sum():.9g} eV, {abs(shares.sum() - gained) / size:.1e} of their sizes away"
            )
    rest = potential.shift[batch.species] + (0 if potential.config.isolated_atoms else alone)
    if potential.zbl is not None:
        rest += potential.zbl.repulsion(batch)[0]
    energy = potential.predict(batch, forces=False).energy[0]
    by_path = zip(network.model.paths, shares, strict=True)
    return Contributions(
        float(energy), float(rest.sum()), {key: network.by_atom(row) for key, row in by_path}
    )


def _times(network: _Network, tape: Tape) -> dict[tuple[int, str], float]:
    """Seconds of every path, see PathResult."""
    C, found = network.model.config.features, {}
    calls = [step for step in tape.steps if step[0].name.startswith("interaction")]
    each = len(calls) // network.model.config.blocks  # third moments have a call of their own
    for (k, path), (slot, _) in network.model.paths.items():
        op, nodes, _, (*graph, _) = calls[each * (k - 1) + (path == PATHS[7])]
        *inputs, w = (node.value.astype(network.dtype) for node in nodes)
        if len(inputs) == 4 and PATHS.index(path) < 5:
            op, inputs = operators("cpu")["interaction"], inputs[:3]
        inputs.append(np.ascontiguousarray(w[:, slot * C : (slot + 1) * C]))
        found[k, path] = median_time(path_alone(op, path, inputs, graph, with_features=k > 1), SECONDS, 1)
    return found


def _radial(network: _Network, radii: np.ndarray) -> dict[tuple[int, str], np.ndarray]:
    """w_p(r) [M, C] with the path's constant."""
    model, params, c = network.model, network.potential.params, network.model.config

    def mix(matrix: Dense, x: np.ndarray) -> np.ndarray:
        rows = np.array([0, len(x)])
        return reference.dense_fwd(x, params[matrix.name], rows, matrix.pieces, matrix.scales, matrix.columns)

    h = reference.radial_basis_fwd(radii, params["frequencies"], c.cutoff, c.envelope_p)
    for matrix in model.radial:
        h = reference.activation_fwd(mix(matrix, h), SSP)
    weights = [mix(block.radial, h) for block in model.blocks]
    C, constants = c.features, dict(zip(PATHS, PATH_FACTORS, strict=True))
    return {
        (k, path): constants[path] * weights[k - 1][:, slot * C : (slot + 1) * C]
        for (k, path), (slot, _) in model.paths.items()
    }


# ------------------------------------------------------------ symmetry


def _equivariance(
    network: _Network,
    atoms: Atoms,
    scalars: list[np.ndarray],
    vectors: list[np.ndarray],
    rotation: np.ndarray,
) -> tuple[list[dict[str, float]], list[np.ndarray]]:
    """Deviations of every block, see Inspection, and the vectors of the rotated structure."""
    mirror = np.eye(3) - 2 * np.outer(rotation[0], rotation[0])
    order = np.random.default_rng(0).permutation(len(atoms))
    moved = {
        "rotation": _turned(atoms, rotation),
        "mirror": _turned(atoms, mirror),
        "permutation": atoms[order],
    }
    found = {}
    for name, structure in moved.items():
        other = _Network(network.potential, structure)
        found[name] = other.features(other.record()[1])
    blocks = []
    for k, block in enumerate(network.model.blocks, 1):
        s, v = scalars[k], vectors[k]
        odd = np.where(np.arange(s.shape[1]) < block.n_even, 1.0, -1.0)
        axial = np.where(np.arange(v.shape[2]) < block.n_polar, 1.0, -1.0)
        expected = {
            "rotation": (s, _turn(v, rotation)),
            "mirror": (s * odd, _turn(v, mirror) * axial),
            "permutation": (s[order], v[order]),
        }
        largest = max(np.abs(s).max(), np.abs(v).max(initial=0))
        row = {"block": k}
        for name, (s_expected, v_expected) in expected.items():
            s_found, v_found = (features[k] for features in found[name])
            error = max(np.abs(s_found - s_expected).max(), np.abs(v_found - v_expected).max(initial=0))
            row[name] = float(error / largest) if error else 0.0
        blocks.append(row)
    return blocks, found["rotation"][1]


def _turned(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    """Row vectors become x @ matrix.T."""
    return Atoms(atoms.numbers, atoms.positions @ matrix.T, cell=atoms.cell[:] @ matrix.T, pbc=atoms.pbc)


def _turn(v: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.einsum("ab,nbc->nac", matrix, v)
