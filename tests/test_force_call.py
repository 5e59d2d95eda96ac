"""The compiled force call against the walks over the tape, and its bits."""

import numba
import numpy as np
import pytest
from checks import check_tape
from potentials import GATED, batch, crystal, molecule, potential

from eqpot.engines import force_call
from eqpot.engines.force_call import ForceCall


@pytest.mark.parametrize("settings", GATED.values(), ids=GATED)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_the_tape(settings, dtype):
    model = potential(dtype, **settings)
    assert force_call.takes(model.fitted)
    check_tape(model, batch(model, molecule(), crystal(), molecule(7, seed=2)))


def test_whole_vectors_and_several_panels():
    model = potential(features=32, blocks=3, symmetry="o3")
    check_tape(model, batch(model, crystal(n=20)))


def test_same_bits_whatever_the_walk(monkeypatch):
    """Large structures are walked from neighbour to neighbour; here small ones, two of them as one batch."""
    model = potential("float32", features=16, symmetry="so3")
    structures = crystal(n=36) * (2, 1, 1), molecule(9, seed=1), crystal(n=20)
    plain = batch(model, *structures)
    monkeypatch.setattr("eqpot.structures.graph.LARGE", 15)
    walked = batch(model, *structures)
    assert plain.walk is None and not np.array_equal(walked.walk, np.arange(len(walked.species)))
    assert np.array_equal(walked.species[walked.walk], walked.species)
    assert all(np.array_equal(a, b) for a, b in zip(run(model, plain), run(model, walked), strict=True))
    energies = [model.predict(graph, forces=False).energies for graph in (plain, walked)]
    assert np.array_equal(*energies)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread has nothing to agree with")
@pytest.mark.parametrize("name", ["o3", "second"])
def test_same_bits_for_any_number_of_threads(name):
    model = potential("float32", **{**GATED[name], "features": 16})
    graph = batch(model, crystal(n=36) * (2, 1, 1))
    assert graph.edge_count > 1000, "enough for two threads"
    found = []
    for threads in (1, 2, 2):
        numba.set_num_threads(threads)
        found.append(run(model, graph))
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    for again in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(again, found[0], strict=True))


def run(model, graph, compiled=None) -> list[np.ndarray]:
    compiled = compiled or ForceCall(model.fitted)
    return [a.copy() for a in compiled.compute(graph)]


def test_buffers_serve_smaller_and_larger_structures():
    model = potential()
    compiled = ForceCall(model.fitted)
    for atoms in (molecule(4), crystal(n=12), molecule(4)):
        graph = batch(model, atoms)
        kept, fresh = run(model, graph, compiled), run(model, graph)
        assert all(np.array_equal(a, b) for a, b in zip(kept, fresh, strict=True))


def test_energies_alone():
    model = potential()
    graph = batch(model, molecule())
    alone = model.predict(graph, forces=False)
    assert alone.forces is None
    assert np.array_equal(alone.energies, model.predict(graph).energies)


def test_changed_weights_are_seen():
    model = potential()
    graph = batch(model, molecule())
    before = model.predict(graph).energy
    model.params.flat *= 1.01
    assert not np.array_equal(model.predict(graph).energy, before)
    check_tape(model, graph)
    model.scale *= 2
    check_tape(model, graph)


def test_structure_without_edges():
    model = potential()
    apart = molecule(3)
    apart.positions *= 10
    found = model.predict(batch(model, apart))
    assert np.isfinite(found.energy).all() and not found.forces.any()
