"""The blocks as one operator against the operators one by one, and its bits."""

import numba
import numpy as np
import pytest
from ase import Atoms
from checks import gradient
from potentials import GATED, batch, crystal, molecule, potential
from tolerances import MODEL, check_close

from eqpot.engines import training_walks
from eqpot.engines.training_walks import Blocks, graph_in_parts


@pytest.mark.parametrize("settings", GATED.values(), ids=GATED)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_the_operators_one_by_one(settings, dtype):
    model = potential(dtype, **settings)
    assert training_walks.takes(model.fitted)
    graph = batch(model, molecule(), crystal(), molecule(25, seed=2), Atoms("O", positions=[[0, 0, 0]]))
    assert len(graph_in_parts(graph).parts) > 2
    value, found = gradient(model, graph)
    expected_value, expected = gradient(model, graph, compiled=False)
    check_close(value, expected_value, MODEL[dtype], what="loss")
    names = model.params.split(found)
    for name, array in model.params.split(expected).items():
        check_close(names[name], array, MODEL[dtype], scale=np.abs(expected).max(), what=name)


@pytest.mark.parametrize("settings", GATED.values(), ids=GATED)
def test_what_memory_held_before_does_not_matter(settings):
    model = potential(**settings)
    graph = batch(model, molecule(), crystal())
    expected = gradient(model, graph)[1]
    for buffers in model.fitted.pool._free.values():
        for buffer in buffers:
            buffer.fill(np.nan)
    assert np.array_equal(gradient(model, graph)[1], expected)


def test_no_edges_and_species_that_are_absent():
    model, apart = potential(), molecule()
    apart.positions *= 10
    for structures in ([Atoms("O", positions=[[0, 0, 0]])], [apart], [Atoms("OC", [[0, 0, 0], [0, 0, 1.2]])]):
        graph = batch(model, *structures)
        found, expected = gradient(model, graph)[1], gradient(model, graph, compiled=False)[1]
        check_close(found, expected, MODEL["float64"], what=str(structures))


@pytest.mark.parametrize("features", [32, 40])
def test_whole_vectors_and_those_that_are_not(features):
    model = potential("float32", features=features, symmetry="o3")
    graph = batch(model, crystal(n=20))
    check_close(gradient(model, graph)[1], gradient(model, graph, compiled=False)[1], MODEL["float32"])


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread has nothing to agree with")
@pytest.mark.parametrize("name", ["o3", "second"])
def test_same_bits_for_any_number_of_threads(name):
    model = potential("float32", **{**GATED[name], "features": 16})
    graph = batch(model, crystal(n=36) * (2, 1, 1))
    found = []
    for threads in (1, 2, 2):
        numba.set_num_threads(threads)
        found.append(gradient(model, graph)[1])
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    assert all(np.array_equal(again, found[0]) for again in found[1:])


def test_what_it_cannot_do_says_so():
    model = potential()
    graph = batch(model, molecule())
    gradient(model, graph)
    operator, some = model.fitted.engine(Blocks).operator, np.zeros(1)
    with pytest.raises(NotImplementedError, match="weights"):
        operator.bwd(None, some, some, some, some, some, some, graph)
    with pytest.raises(NotImplementedError, match="weights"):
        operator.fwd_tan(some, some, some, some, some, some, some, graph)
    with pytest.raises(NotImplementedError, match="directions"):
        operator.bwd_tan(some, *[some] * 10, graph)
    with pytest.raises(NotImplementedError, match="weights"):
        operator.bwd_tan(None, some, None, *[some] * 8, graph)
