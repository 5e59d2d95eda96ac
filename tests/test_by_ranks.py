"""Atoms shared among ranks, here in one process, against the same atoms as a whole."""

import numpy as np
import pytest
from potentials import GATED, batch, crystal, potential
from tolerances import check_close

from eqpot.engines.by_ranks import Share, steps
from eqpot.engines.force_call import ForceCall
from eqpot.kernels.edges import group_by
from eqpot.structures.neighbours import search

EQUAL = {"float64": 1e-12, "float32": 1e-5}


def shares(model, atoms, rank_of: np.ndarray, ranks: int) -> list[tuple[Share, np.ndarray]]:
    """Of each rank, and which atom each of its rows is; every image of an atom is a ghost of its own."""
    i, j, S, D = search(atoms.positions, atoms.cell[:], atoms.pbc, model.config.cutoff, "ijSD", "here")
    species = np.searchsorted(model.species, atoms.numbers)
    found = []
    for rank in range(ranks):
        own = np.flatnonzero(rank_of == rank)
        own = own[np.argsort(species[own], kind="stable")]
        row = {(a, 0, 0, 0): k for k, a in enumerate(own)}
        mine = np.flatnonzero(rank_of[i] == rank)
        place = {a: k for k, a in enumerate(own)}
        mine = mine[np.argsort([place[a] for a in i[mine]], kind="stable")]
        senders = [row.setdefault((a, *s), len(row)) for a, s in zip(j[mine], S[mine].tolist(), strict=True)]
        rows = np.array([a for a, *_ in row], np.int64)
        of_each = np.bincount([place[a] for a in i[mine]], minlength=len(rows)) if len(mine) else 0 * rows
        share = Share(
            species[rows],
            group_by(species[own], len(model.species))[0],
            np.array(senders, np.int64),
            np.concatenate([[0], np.cumsum(of_each)]).astype(np.int64),
            np.ascontiguousarray(D[mine]),
        )
        found.append((share, rows))
    return found


def together(model, atoms, rank_of, ranks):
    """Energies, forces and virials of atoms, and how often ranks exchanged."""
    n, all_shares = len(atoms), shares(model, atoms, rank_of, ranks)
    fresh = [model.frozen() for _ in range(ranks)]  # ranks are processes: each has buffers of its own
    walks = [steps(p.fitted, share) for p, (share, _) in zip(fresh, all_shares, strict=True)]
    results, exchanges = {}, 0
    while len(results) < ranks:
        views = {}
        for rank, walk in enumerate(walks):
            try:
                views[rank] = next(walk)
            except StopIteration as end:
                results[rank] = end.value
        assert len(views) in (0, ranks), "all ranks exchange equally often"
        if views:
            exchanges += 1
            of_atom = np.full((n, views[0].shape[1]), np.nan, views[0].dtype)
            for rank, (share, rows) in enumerate(all_shares):
                of_atom[rows[: share.own]] = views[rank][: share.own]
            for rank, (share, rows) in enumerate(all_shares):
                views[rank][share.own :] = of_atom[rows[share.own :]]
    energies, forces, virials = np.full(n, np.nan), np.zeros((n, 3)), np.zeros((n, 3, 3))
    for rank, (share, rows) in enumerate(all_shares):
        x, d = results[rank]
        energies[rows[: share.own]] = x
        receivers = rows[np.repeat(np.arange(len(rows)), np.diff(share.receiver_ptr))]
        np.add.at(forces, receivers, d)
        np.add.at(forces, rows[share.senders], -d)
        np.add.at(virials, receivers, share.edge_vec[:, :, None] * d[:, None, :])
    return energies, forces, virials, exchanges


ALL = {**GATED, "zbl": dict(zbl=True), "four_blocks": dict(blocks=4), "whole_vectors": dict(features=32)}


@pytest.mark.parametrize("settings", ALL.values(), ids=ALL)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_ranks_together_equal_the_whole(settings, dtype):
    """In slabs, one rank without atoms."""
    model = potential(dtype, **settings)
    atoms = crystal(n=36)
    rank_of = np.array([0, 2])[(atoms.get_scaled_positions()[:, 0] > 0.4).astype(int)]
    graph = batch(model, atoms)
    whole = model.predict(graph, forces=True, stress=True)
    energies, forces, virials, exchanges = together(model, atoms, rank_of, 3)
    assert exchanges == 2 * (model.config.blocks - 1)
    check_close(energies, whole.energies[graph.place], EQUAL[dtype], what="energies")
    check_close(forces, whole.forces[graph.place], EQUAL[dtype], what="forces")
    virial = virials.sum(axis=0)
    check_close((virial + virial.T) / 2 / graph.volume[0], whole.stress[0], EQUAL[dtype], what="stress")


def test_virials_of_atoms_are_those_of_their_edges():
    model, atoms = potential(), crystal(n=36)
    graph = batch(model, atoms)
    _, _, d = ForceCall(model.fitted).compute(graph)
    expected = np.zeros((len(atoms), 3, 3))
    np.add.at(expected, graph.receivers, graph.edge_vec[:, :, None] * d[:, None, :])
    virials = together(model, atoms, np.arange(36) % 2, 2)[2]
    check_close(virials, expected[graph.place], EQUAL["float64"])
