"""Y1 and the five paths against the values that e3nn itself gives for the same inputs."""

import numpy as np
import pytest
from operator_cases import USABLE
from tolerances import GOLDEN, check_close

from eqpot.backend import to_device, to_host
from eqpot.network.ops import operators

PATHS = ["path_0x0_0", "path_0x1_1", "path_1x0_1", "path_1x1_0", "path_1x1_1"]
SIGNS = [1, 1, 1, 1, -1]  # e3nn's cross product is v x Y1


@pytest.fixture(scope="module")
def golden(golden_folder):
    path = golden_folder / "e3nn_paths.npz"
    if not path.exists():
        pytest.skip(f"no file {path}")
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("backend", USABLE)
def test_paths_against_e3nn(golden, backend):
    ops = operators(backend)
    edge_vec, s, v, w = (golden[name] for name in ("edge_vec", "s", "v", "w"))
    n_edges, n_channels = s.shape

    def there(*arrays):
        return [to_device(a, backend) for a in arrays]

    r, unit = there(np.empty(n_edges), np.empty((n_edges, 3)))
    ops["edge_geometry"].fwd(r, unit, *there(edge_vec))
    check_close(to_host(unit), golden["Y1"], GOLDEN, what="Y1")
    check_close(to_host(r), np.linalg.norm(edge_vec, axis=1), GOLDEN, what="r")

    # Edge e goes from atom e to an atom of its own, n_edges + e, so every sum over edges has one term.
    s, v = np.concatenate([s, np.zeros_like(s)]), np.concatenate([v, np.zeros_like(v)])
    edges, atoms = np.arange(n_edges), np.arange(2 * n_edges + 1)
    receiver_ptr, sender_ptr = np.maximum(atoms - n_edges, 0), np.minimum(atoms, n_edges)
    paths = np.array([[0, 0], [1, 0], [2, 1], [3, 1], [4, 2]])
    ms, mv = there(np.empty((2 * n_edges, 2 * n_channels)), np.empty((2 * n_edges, 3, 3 * n_channels)))
    inputs = there(s, v, to_host(unit), w.reshape(n_edges, -1))
    graph = there(edges, n_edges + edges, receiver_ptr, edges, sender_ptr)
    ops["interaction"].fwd(ms, mv, *inputs, *graph, paths)
    for path, (name, sign) in enumerate(zip(PATHS, SIGNS, strict=True)):
        slot = paths[path, 1] * n_channels
        messages = to_host(ms if path in (0, 3) else mv)
        check_close(messages[n_edges:, ..., slot : slot + n_channels], sign * golden[name], GOLDEN, what=name)
