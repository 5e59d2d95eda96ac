"""What the CUDA kernels do together, in Numba's simulator or on a GPU, against the NumPy reference; and every
kernel through the compiler, which needs no GPU.

The simulator checks no types, the compiler no numbers: together they leave what only a card can show.
"""

import importlib
import pkgutil
import re
import shutil
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from graphs import SKEW
from test_blocks import loss_of
from test_force_call import batch
from test_model import crystal, molecule
from test_operators import TYPICAL, Walks
from tolerances import MODEL, OPERATOR, check_close

import eqpot
import eqpot.kernels as kernel_package
from eqpot import backend as backends
from eqpot.adam import Adam, MovingAverage
from eqpot.errors import UserError
from eqpot.gpu_graph import GpuVerletList
from eqpot.graph import VerletList
from eqpot.kernels import cuda as gpu
from eqpot.kernels import reference
from eqpot.kernels.convolution import convolution_bwd_cuda, convolution_fwd_cuda
from eqpot.kernels.embedding import embedding_fwd_cuda
from eqpot.potential import Potential

usable = pytest.mark.skipif(
    bool(backends.obstacle()), reason=f"{backends.obstacle()}; `make test-sim` runs it in the simulator"
)
compiled = pytest.mark.skipif(gpu.SIMULATED, reason="the simulator compiles nothing")

SMALL = {"features": 4, "blocks": 2, "cutoff": 3.5, "basis_size": 4, "radial_width": 3}
SETTINGS = {
    "o3": {},
    "so3": {"symmetry": "so3"},
    "l_max 0": {"l_max": 0},
    "one block": {"blocks": 1},
    "residual": {"self_connection": "residual"},
    "norm": {"nonlinearity": "norm"},
    "zbl": {"zbl": True},
    "no hidden layer": {"radial_depth": 0},
    "odd widths": {"features": 5, "symmetry": "so3", "radial_depth": 2},
}
STRUCTURES = [molecule(5), crystal(3), Atoms("O", positions=[[0, 0, 0]])]


def there(array):
    return backends.to_device(array, "cuda")


def pair(dtype="float64", **settings) -> tuple[Potential, Potential]:
    """The same potential on a GPU and on the reference."""
    made = Potential.create(species=[1, 6, 8], dtype=dtype, **SMALL | settings)
    made.scale[:], made.shift[:] = [0.8, 1.0, 1.3], [-1.0, 2.0, 0.5]
    made.mean_neighbours = 5.0
    reference = Potential.create(species=[1, 6, 8], dtype="float64", **SMALL | settings)
    reference.params.flat[:] = made.params.flat
    reference.scale[:], reference.shift[:] = made.scale, made.shift
    reference.mean_neighbours = 5.0
    reference.backend = "ref"
    return made.to("cuda"), reference


@usable
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_energy_forces_stress(settings):
    for dtype in ("float64", "float32"):
        potential, reference = pair(dtype, **settings)
        graph = batch(potential, *STRUCTURES)
        got, expected = (p.predict(graph, forces=True, stress=True) for p in (potential, reference))
        for name in ("energies", "energy", "forces"):
            check_close(getattr(got, name), getattr(expected, name), MODEL[dtype], what=name)
        periodic = ~np.isnan(graph.volume)
        check_close(got.stress[periodic], expected.stress[periodic], MODEL[dtype], what="stress")


@usable
@pytest.mark.parametrize("name", ["o3", "norm", "zbl"])
def test_loss_gradient(name):
    potential, reference = pair(**SETTINGS[name])
    graph = batch(potential, *STRUCTURES)
    found = []
    for p in (potential, reference):
        loss = loss_of(backends.moved(graph, p.backend))
        (value, *_), gradient = p.loss_gradient(graph, loss, stress=True)
        found.append((value, backends.to_host(gradient).copy()))
    (value, gradient), (expected_value, expected) = found
    check_close(value, expected_value, MODEL["float64"], what="loss")
    for name, array in reference.params.split(expected).items():
        got = reference.params.split(gradient)[name]
        check_close(got, array, MODEL["float64"], scale=np.abs(expected).max(), what=name)


@usable
def test_same_bits_again():
    potential, _ = pair("float32")
    first, second = (potential.evaluate(crystal(3)) for _ in range(2))
    assert np.array_equal(first.forces, second.forces) and first.energy == second.energy


@usable
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("vectors", [True, False])
def test_convolution_is_dense_and_interaction(dtype, vectors):
    """Its values, and its derivatives by features, direction and distance, dh being any numbers."""
    rng = np.random.default_rng(3)
    graph = batch(pair()[0], molecule(6), crystal(3))
    n, C, H, first = len(graph.species), 5, 3, 2
    paths = np.array(
        [[0, 0], [1, 0], [2, 1], [3, 1], [4, 2]] if vectors else [[0, 0], [1, 0], *[[-1, -1]] * 3]
    )
    P0, P1 = (2, 3) if vectors else (1, 1)
    P, scale = P0 + P1, 0.7
    s, v = rng.normal(size=(n, C)), rng.normal(size=(n, 3, C if vectors else 0))
    r = np.linalg.norm(graph.edge_vec, axis=1)
    unit = np.sqrt(3) * graph.edge_vec / r[:, None]
    # an edge and its reverse have one h and dh, as functions of r do
    a, b = rng.normal(size=(2, 2 * H))
    h, dh = np.sin(np.outer(r, a)), np.cos(np.outer(r, b))
    W = rng.normal(size=(H, P * C))
    dms, dmv = rng.normal(size=(n, P0 * C)), rng.normal(size=(n, 3, P1 * C))
    edges = graph.senders, graph.receivers, graph.receiver_ptr, graph.sender_perm, graph.sender_ptr

    w = scale * h[:, first : first + H] @ W
    ms, mv = reference.interaction_fwd(s, v, unit, w, *edges, paths)
    ds, dv, dunit, dw = reference.interaction_bwd(dms, dmv, s, v, unit, w, *edges, paths)
    dr = np.sum(dw * (scale * dh[:, first : first + H] @ W), axis=1)

    def of(*arrays):
        return [there(x.astype(dtype)) for x in arrays]

    inputs = of(s, v, unit, r, h, dh, W)
    static = there(graph.senders), there(graph.receiver_ptr), paths, first, scale
    got = of(np.full_like(ms, np.nan), np.full_like(mv, np.nan))
    convolution_fwd_cuda(*got, *inputs, *static)
    grads = of(*(np.zeros_like(x) for x in (s, v, unit, r)))
    convolution_bwd_cuda(*grads, *of(dms, dmv), *inputs, *static)
    for name, x, y in zip(
        ("ms", "mv", "ds", "dv", "dunit", "dr"),
        (*got, *grads),
        (ms, mv, ds, dv, dunit, dr),
        strict=True,
    ):
        check_close(backends.to_host(x), y, OPERATOR[dtype], what=name)


def structure(kind: str) -> Atoms:
    rng = np.random.default_rng(7)
    if kind == "cluster":
        return Atoms("CH2O" * 6, positions=rng.uniform(0, 9, (24, 3)))
    if kind == "slab":
        return Atoms(
            "CO" * 9, positions=rng.uniform(-4, 12, (18, 3)), cell=[6, 7, 8], pbc=[True, True, False]
        )
    if kind == "tiny cell":
        return Atoms("CO", positions=[[0.1, 0.2, 0.3], [9.0, -1.0, 1.4]], cell=SKEW, pbc=True)
    if kind == "alone":
        return Atoms("O", positions=[[1, 2, 3]])
    cell = np.array([[11.0, 0, 0], [3.0, 9.0, 0], [-2.0, 1.0, 12.0]])
    return Atoms("CH2O" * 8, positions=rng.uniform(-5, 20, (32, 3)), cell=cell, pbc=True)


@usable
@pytest.mark.parametrize("kind", ["cluster", "slab", "tiny cell", "alone", "crystal"])
def test_neighbours(kind):
    """The same edges, in the same order, as those found on the CPU; also after a step within the skin."""
    atoms = structure(kind)
    on_gpu, on_cpu = (made([1, 6, 8], 3.0, 0.4) for made in (GpuVerletList, VerletList))
    for move in (0.0, 0.1, 0.1, 3.0):
        atoms.positions += np.random.default_rng(1).uniform(-move, move, atoms.positions.shape) / 2
        geometry = atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc
        got, expected = on_gpu.batch(*geometry), on_cpu.batch(*geometry)
        for name in ("senders", "receivers", "receiver_ptr", "species", "sender_ptr"):
            assert np.array_equal(backends.to_host(getattr(got, name)), getattr(expected, name)), name
        edge_vec, perm = backends.to_host(got.edge_vec), backends.to_host(got.sender_perm)
        check_close(edge_vec, expected.edge_vec, 1e-14)
        assert np.array_equal(edge_vec[perm], -edge_vec)
        assert on_gpu.builds == on_cpu.builds


@usable
def test_neighbours_errors(monkeypatch):
    atoms, neighbours = structure("crystal"), GpuVerletList([1, 6, 8], 3.0, 0.4)
    atoms.positions[5] = atoms.positions[6] + atoms.cell[0]
    with pytest.raises(UserError, match="two at the same place"):
        neighbours.batch(atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc)
    atoms.positions[5] = np.nan
    with pytest.raises(UserError, match="finite"):
        neighbours.batch(atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc)

    def out_of_memory(*_):
        raise MemoryError("Out of memory allocating 512 bytes")

    atoms.positions[5] = 0.0
    monkeypatch.setattr("eqpot.gpu_graph.bins_cuda", out_of_memory)
    with pytest.raises(UserError, match="structure: 32 atoms: .* too many .Out of memory allocating 512"):
        neighbours.batch(atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc)


@usable
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_and_average(amsgrad):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=37), rng.normal(size=(4, 37))
    found = []
    for backend in ("cpu", "cuda"):
        weights = backends.to_device(start.copy(), backend)
        adam, average = Adam(weights, amsgrad, backend), MovingAverage(weights, 0.9, backend)
        for gradient in gradients:
            adam.step(weights, backends.to_device(gradient, backend), 0.01)
            average.update(weights)
        found.append([backends.to_host(x) for x in (weights, average.weights, adam.v)])
    for got, expected in zip(found[1], found[0], strict=True):
        check_close(got, expected, MODEL["float64"])


@usable
def test_moves_and_files(tmp_path):
    """To the GPU and back; a saved model is the same wherever it was."""
    potential, _ = pair()
    path = tmp_path / "model.h5"
    potential.save(path)
    for other in (Potential.load(path, device="cuda"), eqpot.Potential.load(path)):
        flat = backends.to_host(other.params.flat)
        assert np.array_equal(flat, backends.to_host(potential.params.flat))
    flat = potential.params.flat
    assert isinstance(potential.to("cpu").params.flat, np.ndarray) and np.array_equal(
        potential.params.flat, backends.to_host(flat)
    )


@pytest.mark.skipif(not backends.obstacle(), reason="there is a GPU, or the simulator")
def test_no_gpu_is_said():
    with pytest.raises(UserError, match="device: cuda: "):
        Potential.create(species=["H"], device="cuda")
    assert Potential.create(species=["H"], device="auto").backend == "cpu"


@compiled
def test_arrays_of_numpy_are_refused():
    """Numba would copy them to the GPU and back at each launch."""
    with pytest.raises(TypeError, match="_fwd_cuda: expected arrays on the GPU, found one of NumPy"):
        embedding_fwd_cuda(np.empty((2, 1)), np.ones((1, 1)), np.zeros(2, int), np.array([0, 2]))


# ------------------------------------------------------------ compiled, not run


def signatures(monkeypatch, dtypes) -> dict[tuple, gpu.Kernel]:
    """Every kernel with the types of its arguments, from launching all of them on no GPU at all."""
    from numba import typeof

    found: dict[tuple, gpu.Kernel] = {}

    def launch(kernel, *arguments):
        kinds = [typeof(a) for a in arguments]
        found[kernel.function.__module__, kernel.__name__, tuple(kinds)] = kernel
        for a in arguments:  # numbers that all that follows can work with
            if isinstance(a, np.ndarray) and a.dtype.kind == "f":
                a[...] = 1

    with monkeypatch.context() as patched:
        patched.setattr(gpu.Kernel, "__call__", launch)
        for module in (gpu, backends):  # arrays are NumPy's
            patched.setattr(module, "SIMULATED", True)
        for dtype in dtypes:
            for case in TYPICAL:
                walks = Walks("cuda", case, dtype)
                dy, tx, tdy = case.directions()
                walks.fwd(), walks.bwd(dy), walks.fwd_tan(tx), walks.bwd_tan(tdy, tx, dy)
            potential = Potential.create(species=[1, 6, 8], dtype=dtype, zbl=True)
            graph = batch(potential, *STRUCTURES)
            potential.to("cuda").predict(graph, forces=True, stress=True)
            weights = np.zeros(3, dtype)
            Adam(weights, backend="cuda").step(weights, weights, 0.1)
            MovingAverage(weights, 0.9, backend="cuda").update(weights)
        atoms = structure("crystal")
        patched.setattr("eqpot.gpu_graph._starts", lambda counts: (np.zeros(len(counts) + 1, int), 1))
        neighbours = GpuVerletList([1, 6, 8], 3.0, 0.4)
        for _ in range(2):
            neighbours.batch(atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc)
    return found


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)], ids=lambda c: f"sm_{c[0]}{c[1]}")
def test_every_kernel_compiles(monkeypatch, tmp_path, capability, capsys):
    """To PTX, and where there is ptxas to machine code, whose registers are printed: float32 spills none.

    float64 for one capability only: it takes a minute.
    """
    from numba import cuda
    from numba.cuda.cudadrv.error import NvvmSupportError

    device = SimpleNamespace(compute_capability=capability)  # which device functions would ask the driver for
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)
    kernels = signatures(monkeypatch, ("float32", "float64") if capability == (9, 0) else ("float32",))
    assert {(module, name) for module, name, _ in kernels} >= set(_all_kernels())
    lines = []
    for (module, name, kinds), kernel in kernels.items():
        try:
            ptx, _ = cuda.compile_ptx(gpu.for_cuda(kernel.function), kinds, cc=capability)
        except NvvmSupportError as e:
            pytest.skip(f"NVVM, which compiles CUDA kernels, is not installed ({e})")
        assert ".visible .entry" in ptx
        if shutil.which("ptxas"):
            lines.append(_registers(ptx, capability, tmp_path, f"{module}.{name}", kinds))
    with capsys.disabled():
        print("\n".join(lines))


def _registers(ptx: str, capability: tuple[int, int], folder, name: str, kinds) -> str:
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    command = ["ptxas", "-v", f"--gpu-name=sm_{capability[0]}{capability[1]}", str(source), "-o", "/dev/null"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = int(re.search(r"Used (\d+) registers", said)[1])
    stack, stores, loads = map(
        int,
        re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said
        ).groups(),
    )
    dtype = "float32" if any("float32" in str(kind) for kind in kinds) else "float64"
    assert dtype == "float64" or stores == loads == 0, f"{name}: {said}"
    return f"{name:<55} {dtype} {registers:3d} registers, {stack} bytes of stack, {stores + loads} spilled"


def _all_kernels() -> Iterator[tuple[str, str]]:
    """Module and name of every CUDA kernel."""
    for found in pkgutil.iter_modules(kernel_package.__path__):
        module = importlib.import_module(f"eqpot.kernels.{found.name}")
        for value in vars(module).values():
            if isinstance(value, gpu.Kernel):
                yield module.__name__, value.__name__
