"""The model as a list of steps: formula, shape and weights of each, and what it costs in a force call.

The one place where operations are counted, from the formulas: a multiplication, an addition and the value of
a function (sin, exp, ssp, silu, its slope) are one each. A force call goes through all steps twice, forward
to the energy and back to the positions. A matrix of k x m takes 2 k m operations forward and as many back for
each row, where

    rows = edges (radial network), 7 atoms (third moments), 5 atoms (second moments), 3 atoms (vectors),
           atoms (scalars).

What enters the first block are constants of the species, so nothing goes back to them.

Bytes are those of the arrays that a step takes and gives, each once and forward and back, as if every step
were by itself. The compiled call moves fewer: it makes the weights w of an edge anew in registers, and small
structures stay in the processor's caches.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eqpot.network.labels import Dense
from eqpot.network.model import PATHS, Block, Model
from eqpot.network.ops import Operator

# Operations of each path, per edge and channel (kernels/products.py): message forward, then back to the
# sender's features, to the weights, and to the direction.
PATH_OPERATIONS = {
    "0x0->0": (2, 2, 2, 0),
    "0x1->1": (7, 7, 7, 7),
    "1x0->1": (6, 6, 6, 0),
    "1x1->0": (7, 7, 7, 7),
    "1x1->1": (15, 15, 15, 15),
    "1x2->1": (21, 21, 21, 21),
    "0x2->2": (11, 11, 11, 11),
    "0x3->3": (15, 15, 15, 15),
}
PATH_FORMULAS = {  # and what they bring
    "0x0->0": ("Σ_j w s_j", "neighbours' scalars"),
    "0x1->1": ("Σ_j w s_j Y", "where neighbours' scalars lie"),
    "1x0->1": ("Σ_j w v_j", "neighbours' vectors"),
    "1x1->0": ("Σ_j w (Y · v_j) / √3", "their part along Y"),
    "1x1->1": ("Σ_j w (Y × v_j) / √2", "their part across Y, turned by 90°"),
    "1x2->1": ("Σ_j w M v_j / √2", "their part along Y twice, less that across it"),
    "0x2->2": ("Σ_j w s_j M √(5/6)", "second moments: how neighbours' scalars are spread"),
    "0x3->3": ("Σ_j w s_j O √(175/108)", "third moments: how they lean to three sides"),
}
NUMBERS = {"0": 1, "1": 3, "2": 5, "3": 7}  # that a feature of each order has
# Operations of all products on an atom, per channel (kernels/node_products.py), forward and back, by how many
# scalars they make: all, without third moments, without second moments, without vectors.
NODE_OPERATIONS = {6: (147, 365), 4: (63, 162), 2: (22, 56), 1: (1, 4)}
# Operations of the envelope and its slope, polynomials of the edge's length.
ENVELOPE = 30

KINDS = ("weights of the paths", *PATHS, "products", "matrices", "nonlinearity")  # of the steps of a block


class Count(NamedTuple):
    """So many for each atom and for each edge."""

    atom: int = 0
    edge: int = 0

    def of(self, atoms: int, edges: int) -> int:
        return self.atom * atoms + self.edge * edges


@dataclass(frozen=True)
class Step:
    """One array and how it is made.

    part: where it belongs; name: as in `eqpot.inspect.trace`, blocks from 1; shape: "n" for atoms, "E" for
    edges; meaning: in a few words; unit: of the array, "" for none; kind: one of KINDS in a block; weights:
    trained numbers that it holds; operations, and numbers (not bytes) that it takes and gives: of one force
    call, without weights.
    """

    part: str
    name: str
    shape: tuple[int | str, ...]
    formula: str
    meaning: str
    unit: str = ""
    kind: str = ""
    weights: int = 0
    operations: Count = Count()
    moved: Count = Count()

    @property
    def axes(self) -> str:
        """The shape as text."""
        return f"[{', '.join(map(str, self.shape))}]"

    def bytes(self, atoms: int, edges: int, itemsize: int) -> int:
        """Arrays and, forward and back, weights."""
        return itemsize * (self.moved.of(atoms, edges) + 2 * self.weights)


def operations(model: Model, atoms: int, edges: int) -> int:
    """Operations for energies and forces, see the module's docstring."""
    return sum(step.operations.of(atoms, edges) for step in steps(model))


def steps(model: Model) -> list[Step]:
    """Everything that happens to a structure, in order."""
    c, Z = model.config, model.n_species
    C, B, H = c.features, c.basis_size, c.blocks * c.radial_width
    found = [
        Step("edges", "edge_vec", ("E", 3), "r_j - r_i", "from receiver i to sender j", "Å"),
        Step(
            *("edges", "r", ("E",), "|edge_vec|", "distance", "Å"),
            operations=Count(edge=6),
            moved=Count(edge=4),
        ),
        Step(
            *("edges", "unit", ("E", 3), "Y = √3 edge_vec / r", "direction: the harmonic of l = 1"),
            operations=Count(edge=4 + 24),
            moved=Count(edge=6 + 10),
        ),
        Step(
            *("radial network", "basis", ("E", B), "√(2/c) sin(ω_n r/c) / r · f(r/c)"),
            *("Bessel functions, envelope f", "Å^-3/2"),
            weights=B,
            operations=Count(edge=12 * B + ENVELOPE),
            moved=Count(edge=2 * B + 3),
        ),
    ]
    if c.filter_order >= 2:
        found.insert(
            3,
            Step(
                *("edges", "tensor", ("E", 6), "M = Y Yᵀ - 1", "filter of order 2: xx, yy, zz, xy, yz, zx"),
                operations=Count(edge=9 + 21),
                moved=Count(edge=9 + 12),
            ),
        )
    if c.filter_order == 3:
        numbers = "filter of order 3: xxx, xyy, yyy, xxy, xxz, yyz, xyz"
        found.insert(
            4,
            Step(
                *("edges", "third", ("E", 7), "O = Y Y Y - 3/5 (1 Y + Y 1 + 1 Y)", numbers),
                operations=Count(edge=14 + 34),
                moved=Count(edge=10 + 13),
            ),
        )
    for d, matrix in enumerate(model.radial):
        before = "basis" if d == 0 else f"hidden.{d - 1}"
        found.append(
            Step(
                *("radial network", f"hidden.{d}", ("E", H), f"ssp({matrix.scales[0]:.3g} {before} W)"),
                "hidden layer, all blocks side by side",
                weights=matrix.size,
                operations=Count(edge=4 * matrix.size + 3 * H),
                moved=Count(edge=2 * (_rows(matrix) + H) + 5 * H),
            )
        )
    last = f"hidden.{len(model.radial) - 1}" if model.radial else "basis"
    found.append(
        Step(
            *("embedding", "embedding", ("n", C), "row of the species", "first scalars"),
            weights=Z * C,
            moved=Count(C),
        )
    )
    for k, block in enumerate(model.blocks):
        found += _block(model, block, k, last)
    hidden, number = model.output
    half = hidden.columns
    return [
        *found,
        Step(
            *("readout", "output.0", ("n", half), f"silu({hidden.scales[0]:.3g} s W)", "hidden layer"),
            weights=hidden.size,
            operations=Count(4 * hidden.size + 3 * half),
            moved=Count(2 * (C + half) + 5 * half),
        ),
        Step(
            *(
                "readout",
                "x",
                ("n",),
                f"{number.scales[0]:.3g} output.0 W",
                "the network's number for an atom",
            ),
            weights=number.size,
            operations=Count(4 * number.size),
            moved=Count(2 * (half + 1)),
        ),
        *(
            [Step("readout", "x0", ("n",), "x without messages", "that of a lone atom of the species")]
            if c.isolated_atoms
            else []
        ),
        Step(
            *("readout", "energies", ("n",)),
            f"scale {'(x - x0)' if c.isolated_atoms else 'x'} + shift{' + ZBL' * c.zbl}",
            *("of the atoms; scale, shift by species", "eV"),
            operations=Count(3 + c.isolated_atoms),
            moved=Count(2 + c.isolated_atoms),
        ),
        Step(
            *("forces", "forces", ("n", 3), "-dE/dr", "back through all steps", "eV/Å"),
            operations=Count(edge=6),
            moved=Count(3, 6),
        ),
    ]


def _rows(matrix: Dense) -> int:
    """Columns of its input that it takes."""
    return int(np.max(matrix.pieces[:, 0] + matrix.pieces[:, 1]) - np.min(matrix.pieces[:, 0]))


def _block(model: Model, block: Block, k: int, hidden: str) -> list[Step]:
    """Block k, from 0."""
    c, C, part, name = model.config, model.config.features, f"block {k + 1}", f"block{k + 1}"
    Cv = block.self_out_v.columns if block.self_out_v else 0
    walks = 1 if k == 0 else 2  # through what hangs on the block's input alone
    gates = f"{block.gates} gates and " if block.gates else ""
    paths = [p for number, p in model.paths if number == k + 1]
    w = block.radial

    def mix(label: str, matrix: Dense, formula: str, meaning: str, walks: int = 2) -> Step:
        rows = {"s": 1, "v": 3, "t": 5, "o": 7}[label[-1]]
        lead = (rows,) if rows > 1 else ()
        return Step(
            *(part, f"{name}.{label}", ("n", *lead, matrix.columns)),
            *(f"{matrix.scales[0]:.3g} {formula}", meaning),
            kind="matrices",
            weights=matrix.size * (model.n_species if matrix.per_species else 1),
            operations=Count(2 * walks * rows * matrix.size),
            moved=Count(walks * rows * (_rows(matrix) + matrix.columns)),
        )

    found = [
        Step(
            *(part, f"{name}.w", ("E", len(paths), C), f"{w.scales[0]:.3g} {hidden} W"),
            "of each edge, for each path in order",
            kind="weights of the paths",
            weights=w.size,
            operations=Count(edge=4 * w.size),
            moved=Count(edge=2 * (_rows(w) + w.columns)),
        ),
        mix("self_in.s", block.self_in_s, "s W", "s_j: scalars as neighbours see them", walks),
    ]
    if block.self_in_v:
        found.append(mix("self_in.v", block.self_in_v, "v W", "v_j: vectors as neighbours see them", walks))
    for p in paths:
        before, direction, after = (NUMBERS[order] for order in (p[0], p[2], p[-1]))
        forward, *back = PATH_OPERATIONS[p]
        Y = {1: 0, 3: 3, 5: 6, 7: 7}[direction]
        found.append(
            Step(
                *(part, f"{name}.message.{p}", ("n", *[after] * (after > 1), C), *PATH_FORMULAS[p]),
                kind=p,
                operations=Count(edge=C * (forward + sum(back if k else back[1:]))),
                # Forward: features, w and Y in, messages out. Back: their cotangents, features, w and Y in,
                # cotangents of features, w and Y out.
                moved=Count(C * ((3 if k else 2) * before + 2 * after), 3 * C + 3 * Y),
            )
        )
    found.append(mix("self_out.s", block.self_out_s, "messages W", f"{gates}scalars from the messages"))
    if block.self_out_v:
        found.append(mix("self_out.v", block.self_out_v, "messages W", "vectors from the messages"))
    if block.products_s:
        found += _products(block, part, name, model.product_width, mix)
    residual = c.self_connection == "residual"
    summed = {}
    for label, matrix, kept, width in (
        ("s", block.self_connection_s, block.residual * residual, block.gates + C),
        ("v", block.self_connection_v, C if residual and block.self_in_v and Cv else 0, Cv),
    ):
        summed[label] = f"self_out.{label}"
        products = block.products_s if label == "s" else block.products_v
        if matrix is None and not kept and not products:
            continue
        if matrix:
            own = "the atom's own, matrix of its species"
            found.append(mix(f"self_connection.{label}", matrix, f"{label} W", own, walks))
        count, lead = (width if matrix else kept) + width * bool(products), (3,) if label == "v" else ()
        others = ["products"] if products else []
        if matrix or kept:
            others.append(
                "self_connection" if matrix else label if kept == width else f"{label}, its first {kept}"
            )
        summed[label] = f"sum.{label}"
        found.append(
            Step(
                *(part, f"{name}.sum.{label}", ("n", *lead, width), " + ".join(["self_out", *others])),
                f"{gates}scalars" if label == "s" else "vectors",
                kind="matrices",
                operations=Count(count * math.prod(lead)),
                moved=Count(2 * (2 * width + count) * math.prod(lead)),
            )
        )
    gated = c.nonlinearity == "gate"
    even = "silu" if gated else "ssp"
    odd = f", {C - block.n_even} odd ones by tanh" if block.n_even < C else ""
    found.append(
        Step(
            *(part, f"{name}.s", ("n", C), f"{even}({summed['s']})", f"scalars{odd}"),
            kind="nonlinearity",
            operations=Count(3 * C),
            moved=Count(5 * C),
        )
    )
    if Cv:
        factor = "silu(gates)" if gated else f"ssp(|{summed['v']}|)"
        axial = f", {Cv - block.n_polar} of them axial" if block.n_polar < Cv else ""
        found.append(
            Step(
                *(
                    part,
                    f"{name}.v",
                    ("n", 3, Cv),
                    f"{factor} {summed['v']}",
                    f"vectors{axial}",
                ),
                kind="nonlinearity",
                operations=Count((14 if gated else 28) * Cv),
                moved=Count((18 if gated else 15) * Cv),
            )
        )
    return found


def _products(block: Block, part: str, name: str, D: int, mix: Callable[..., Step]) -> list[Step]:
    """Products on the atom, their factors before and their matrices after them."""
    projections = {
        **{"s": block.project_s, "v": block.project_v},
        **{"t": block.project_t, "o": block.project_o},
    }
    found = [
        mix(f"project.{order}", matrix, "messages W", "two factors of each product, side by side")
        for order, matrix in projections.items()
        if matrix
    ]
    with_v, with_t, with_o = (m is not None for m in (block.project_v, block.project_t, block.project_o))
    of_s = ["s s'", *["v · v' / √3"] * with_v, *["T : T' / √5", "v · q / √3"] * with_t]
    of_v = [*["s v'", "v × v' / √2"] * with_v, *["q = √(3/5) T v'"] * with_t]
    of_s += ["v · p / √3", "O : O' √(4/175)"] * with_o
    of_v += ["p = √(6/35) O : T'"] * with_o
    taken = 2 * D * (1 + 3 * with_v + 5 * with_t + 7 * with_o)
    forward, back = NODE_OPERATIONS[len(of_s)]
    given = D * (len(of_s) + 3 * len(of_v))
    found.append(
        Step(
            *(part, f"{name}.ps", ("n", len(of_s) * D), " | ".join(of_s), "products of them, scalars"),
            kind="products",
            operations=Count(D * (forward + back)),
            moved=Count(3 * taken + 2 * given),
        )
    )
    if of_v:
        about = "vectors, made with the scalars"
        found.append(
            Step(part, f"{name}.pv", ("n", 3, len(of_v) * D), " | ".join(of_v), about, kind="products")
        )
    found.append(mix("products.s", block.products_s, "products W", "scalars from the products"))
    if block.products_v:
        found.append(mix("products.v", block.products_v, "products W", "vectors from the products"))
    return found


def path_alone(
    op: Operator, path: str, inputs: list[np.ndarray], graph: list[np.ndarray], with_features: bool
) -> Callable[[], None]:
    """A call of one path by the operator `interaction`, `interaction2` or `interaction3`, forward and back to
    what it depends on.

    inputs: the operator's, neighbours' features, then filters, with the path's own weights; graph: the
    operator's.
    """
    n, C = inputs[0].shape
    known, orders, filters = {
        "interaction": (5, slice(2), ["x1" in path]),
        "interaction2": (7, slice(3), ["x1" in path, "x2" in path]),
        "interaction3": (8, slice(3, 4), [True]),
    }[op.name]
    paths = np.full((known, 2), -1)
    paths[PATHS.index(path)] = 0
    shapes = [(n, *[count] * (count > 1), C * (path[-1] == order)) for order, count in NUMBERS.items()]
    messages = [np.zeros(shape, inputs[0].dtype) for shape in shapes[orders]]
    cotangents = [np.ones_like(m) for m in messages]
    features = len(inputs) - len(filters) - 1
    wanted = [*[with_features] * features, *filters, True]
    gradients = [np.zeros_like(a) if want else None for a, want in zip(inputs, wanted, strict=True)]

    def call() -> None:
        op.fwd(*messages, *inputs, *graph, paths)
        op.bwd(*gradients, *cotangents, *inputs, *graph, paths)

    return call
