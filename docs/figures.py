"""The pictures of the course, into docs/pictures: python docs/figures.py [NAME ...]

One colour for one thing: directions blue, features red, results green, scalars gold, cotangents violet.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon

from eqpot.config import Config
from eqpot.files import replacing
from eqpot.kernels import reference
from eqpot.plots import COLOURS, FAINT, INK
from eqpot.training.soap import matrices
from eqpot.training.trainer import Trainer

FOLDER = Path(__file__).parent
DIRECTION, FEATURE, RESULT, SCALAR, COTANGENT, _ = COLOURS
PALE = "#f4f4f2"
STYLE = {
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": "#eeeeee",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "mathtext.fontset": "dejavuserif",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "ytick.color": INK,
    "ytick.labelsize": 8,
}


# ---- drawing


def canvas(axes, x: tuple[float, float], y: tuple[float, float], title: str = ""):
    """Axes to draw on freely, in equal units."""
    axes.set(xlim=x, ylim=y, aspect="equal", title=title)
    axes.axis("off")
    return axes


def arrow(axes, start, end, colour: str, width: float = 2.2, **options) -> None:
    patch = FancyArrowPatch(
        *(tuple(start), tuple(end)),
        arrowstyle="-|>,head_length=0.5,head_width=0.26",
        mutation_scale=4 + 3.6 * width,
        **{"shrinkA": 0, "shrinkB": 0, "color": colour, "linewidth": width, "zorder": 3, **options},
    )
    axes.add_patch(patch)


def atom(axes, place, radius: float, label: str = "", colour: str = "white", edge: str = INK) -> None:
    axes.add_patch(Circle(tuple(place), radius, facecolor=colour, edgecolor=edge, linewidth=1.2, zorder=4))
    axes.text(*place, label, ha="center", va="center", fontsize=9, zorder=5)


def oblique(point) -> np.ndarray:
    """Paper coordinates of x, y, z: y goes back, z up."""
    x, y, z = point
    return np.array([x + 0.6 * y, z + 0.42 * y])


def tile(axes, width: float, depth: float) -> None:
    """A piece of the plane z = 0."""
    corners = [(-width, -depth, 0), (width, -depth, 0), (width, depth, 0), (-width, depth, 0)]
    axes.add_patch(Polygon([oblique(c) for c in corners], facecolor=PALE, edgecolor="#e4e4e0", linewidth=1))


# ---- pictures


def edges() -> Figure:
    figure = Figure(figsize=(8.4, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    cutoff = 2.4
    around = [(1.25, 0.35), (-0.5, 1.3), (-1.45, -0.65), (0.6, -1.75), (0.35, 2.15)]
    outside = [(2.6, 1.1), (-2.7, 0.95), (2.75, -0.75), (-2.1, -1.9)]
    canvas(left, (-3.3, 3.3), (-2.75, 2.75), "what atom $i$ sees within the cutoff")
    left.add_patch(Circle((0, 0), cutoff, facecolor=PALE, edgecolor=FAINT, linestyle="--"))
    for k, place in enumerate(around):
        length = np.hypot(*place)
        arrow(left, 0.24 * np.array(place) / length, np.array(place) * (1 - 0.22 / length), DIRECTION)
        atom(left, place, 0.2, "$j$" if k == 0 else "")
    for place in outside:
        atom(left, place, 0.2, edge=FAINT)
    atom(left, (0, 0), 0.22, "$i$", "#e6e6e6")
    left.text(0.45, -0.12, "$r_j - r_i$", color=DIRECTION, fontsize=10)
    left.text(*(cutoff * np.array([0.72, -0.72]) + [0.08, -0.16]), "cutoff $c$", fontsize=9)

    canvas(right, (-2.35, 2.35), (-2.55, 2.35), r"directions: $Y = \sqrt{3}\;(r_j - r_i)\,/\,r$")
    right.add_patch(Circle((0, 0), np.sqrt(3), facecolor="none", edgecolor=FAINT))
    for place in around:
        end = np.sqrt(3) * np.array(place) / np.hypot(*place)
        arrow(right, (0, 0), end, DIRECTION)
        right.text(*(1.2 * end), f"$r = {np.hypot(*place):.2f}$", fontsize=8, ha="center", va="center")
    right.plot(0, 0, "o", color=INK, markersize=4)
    return figure


def radial() -> Figure:
    figure = Figure(figsize=(10.5, 3.1), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    c, p, r = 4.0, 6, np.linspace(0.02, 4.4, 500)
    x = r / c
    frequencies = np.pi * np.arange(1, 5)
    basis = reference.radial_basis_fwd(r, frequencies, c, p)
    inside = r < c
    for n in range(4):
        wave = np.sqrt(2 / c) * np.sin(frequencies[n] * x) / r
        first.plot(r[inside], wave[inside], ":", color=COLOURS[n], linewidth=1)
        first.plot(r, basis[:, n], color=COLOURS[n], label=f"n = {n + 1}")
    first.set(title="basis; dotted: without envelope", xlabel="r, Å", ylim=(-0.65, 1.5))
    first.legend(ncols=2)

    x = np.linspace(0, 1, 300)
    f = reference.envelope(x, p)
    slope = reference.envelope_derivative(x, p)
    for values, label, colour in (
        (f, "$f$", RESULT),
        (slope / 5, "$f'\\,/\\,5$", DIRECTION),
        (np.gradient(slope, x) / 30, "$f''\\,/\\,30$", FEATURE),
    ):
        second.plot(x, values, color=colour, label=label)
    second.set(title="envelope and its derivatives", xlabel="r / c")
    second.legend()

    random = np.random.default_rng(4)
    every = reference.radial_basis_fwd(r, np.pi * np.arange(1, 9), c, p)
    hidden = reference.ssp(2 / np.sqrt(8) * every @ random.normal(size=(8, 8)))
    for k, w in enumerate((2 / np.sqrt(8) * hidden @ random.normal(size=(8, 4))).T):
        third.plot(r, w, color=COLOURS[k])
    third.set(title="$w(r)$ of an untrained radial network", xlabel="r, Å")
    for axes in (first, third):
        axes.axvline(c, color=FAINT, linewidth=1, linestyle="--")
        axes.set_xlim(0, 4.4)
    return figure


def five_products() -> Figure:
    figure = Figure(figsize=(11, 2.05), layout="constrained")
    panels = figure.subplots(1, 5)
    i, j = np.array([-0.95, -0.3, 0]), np.array([0.95, -0.3, 0])
    v = np.array([-0.62, 1.6, 0.0])
    words = (
        ("0x0 → 0", r"$w\,s$", "what the sender is"),
        ("0x1 → 1", r"$w\,s\,Y$", "where it is"),
        ("1x0 → 1", r"$w\,v$", "where it points, passed on"),
        ("1x1 → 0", r"$w\,(Y\cdot v)\,/\sqrt{3}$", "the angle between the two"),
        ("1x1 → 1", r"$w\,(Y\times v)\,/\sqrt{2}$", "the normal of their plane"),
    )
    for path, (axes, (name, formula, meaning)) in enumerate(zip(panels, words, strict=True)):
        canvas(axes, (-2.1, 2.1), (-1.75, 1.85))
        tile(axes, 1.4, 1.15)
        start, end = oblique(i), oblique(j)
        axes.plot(*zip(start, end, strict=True), color=FAINT, linewidth=1.4, linestyle=(0, (3, 2)), zorder=2)
        if path in (1, 3, 4):
            arrow(axes, start + [0.24, 0.0], end - [0.24, 0.0], DIRECTION)
            below = (start + end) / 2 - [0, 0.25]
            axes.text(*below, "$Y$", color=DIRECTION, ha="center", va="center", fontsize=10)
        if path in (0, 1):
            axes.add_patch(Circle(end, 0.3, facecolor=SCALAR, alpha=0.55, linewidth=0, zorder=3))
            axes.text(end[0] + 0.42, end[1], "$s$", color="#b07d12", va="center", fontsize=10)
        else:
            tip = oblique(j + v)
            arrow(axes, end, tip, FEATURE)
            axes.text(tip[0] + 0.13, tip[1], "$v$", color=FEATURE, va="center", fontsize=10)
        if path in (0, 3):
            axes.add_patch(Circle(start, 0.3, facecolor=RESULT, alpha=0.55, linewidth=0, zorder=3))
        elif path == 1:
            arrow(axes, start + [0, 0.3], start + [1.3, 0.3], RESULT, 2.6)
        elif path == 2:
            arrow(axes, start, oblique(i + v), RESULT, 2.6)
        else:
            arrow(axes, start, start + [0, 1.3], RESULT, 2.6)
        if path == 3:
            foot = oblique(j + [v[0], 0, 0])
            axes.plot(*zip(end, foot, strict=True), color=FEATURE, linewidth=4, alpha=0.35, zorder=2)
            axes.plot(*zip(oblique(j + v), foot, strict=True), ":", color=FEATURE, linewidth=1.3, zorder=3)
        atom(axes, start, 0.17, "$i$", "#e6e6e6")
        atom(axes, end, 0.17, "$j$")
        axes.text(0, 1.85, name, ha="center", va="top", fontsize=12, fontweight="bold")
        axes.text(0, -1.05, formula, ha="center", va="center", fontsize=11, color="#4a8067")
        axes.text(0, -1.55, meaning, ha="center", va="center", fontsize=9)
    return figure


def mirror() -> Figure:
    figure = Figure(figsize=(8.4, 3.5), layout="constrained")
    axes = canvas(figure.subplots(), (-4.0, 4.6), (-1.75, 1.9))
    corners = [(0, -1.2, -1.15), (0, 1.5, -1.15), (0, 1.5, 1.15), (0, -1.2, 1.15)]
    glass = Polygon([oblique(k) for k in corners], facecolor="#dfe9f0", edgecolor=DIRECTION, alpha=0.55)
    axes.add_patch(glass)
    axes.text(*oblique((0, 1.55, 1.2)), "mirror", fontsize=9, ha="center", va="bottom")
    flip = np.array([-1, 1, 1])
    origin, a, b = np.array([-2.95, 0, -0.4]), np.array([1.35, -0.3, 0]), np.array([0.1, 1.35, 0])
    normal = np.array([0, 0, 1.35])
    for sign, place in ((1, origin), (-1, origin * flip)):
        turn = flip if sign < 0 else np.ones(3)
        plane = [oblique(place + k) for k in (0 * a, a * turn, (a + b) * turn, b * turn)]
        axes.add_patch(Polygon(plane, facecolor=PALE, edgecolor="#e4e4e0"))
        for vector, colour, label in ((a, DIRECTION, "a"), (b, FEATURE, "b")):
            tip = oblique(place + turn * vector)
            arrow(axes, oblique(place), tip, colour)
            name = f"${label}$" if sign > 0 else f"$M{label}$"
            beside = tip + [0.13 * np.sign(tip[0] - oblique(place)[0]), 0.02]
            axes.text(*beside, name, color=colour, ha="center")
        up = oblique(place + normal)
        arrow(axes, oblique(place), up, RESULT, alpha=1 if sign > 0 else 0.35)
        name = r"$a\times b$" if sign > 0 else r"$M\,(a\times b)$: its image"
        axes.text(up[0] + 0.14, up[1] - 0.1, name, color=RESULT, ha="left")
    down = oblique(origin * flip - normal * 0.9)
    arrow(axes, oblique(origin * flip), down, RESULT)
    axes.text(down[0] + 0.16, down[1] + 0.12, r"$Ma\times Mb$: computed", color=RESULT, ha="left")
    return figure


def convolution() -> Figure:
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    first, second, third = figure.subplots(1, 3, width_ratios=[1, 1, 1.1])
    for axes, angle, title in ((first, 104.5, "directions add up"), (second, 180.0, "... or cancel")):
        canvas(axes, (-1.6, 1.6), (-0.7, 1.6), title)
        half = np.radians(angle) / 2
        for sign, label in ((-1, "1"), (1, "2")):
            place = np.array([sign * np.sin(half), np.cos(half)])
            axes.plot(*zip((0, 0), 1.3 * place, strict=True), color=FAINT, linewidth=1.2, zorder=1)
            arrow(axes, (0, 0), 0.95 * place, DIRECTION)
            atom(axes, 1.3 * place, 0.16, f"${label}$")
        if angle < 180:
            arrow(axes, (0, 0), (0, 2 * 0.95 * np.cos(half)), RESULT, 2.8)
            axes.text(0.1, 1.22, r"$v_0 = \sum_k Y_{0k}$", color=RESULT)
        else:
            axes.text(0, 0.35, "$v_0 = 0$", color=RESULT, ha="center")
        atom(axes, (0, 0), 0.16, "$0$", "#e6e6e6")
    angles = np.linspace(40, 180, 200)
    third.plot(angles, -np.sqrt(3) * (1 + np.cos(np.radians(angles))), color=RESULT)
    for angle in (60, 104.5, 180):
        third.plot(angle, -np.sqrt(3) * (1 + np.cos(np.radians(angle))), "o", color=FEATURE, markersize=5)
    third.set(
        title=r"next block, at a neighbour: $Y_{10}\cdot v_0\,/\sqrt{3}$",
        xlabel="angle at atom 0, degrees",
        xticks=[60, 90, 104.5, 120, 150, 180],
        xticklabels=["60", "90", "104.5", "120", "150", "180"],
    )
    return figure


def gate() -> Figure:
    figure = Figure(figsize=(10, 3.3), layout="constrained")
    first, second, third = figure.subplots(1, 3, width_ratios=[1.15, 1, 1])
    x = np.linspace(-4, 4, 200)
    for kind, name, colour in (
        (reference.SILU, "silu", DIRECTION),
        (reference.SSP, "ssp", RESULT),
        (reference.TANH, "tanh: the odd one", FEATURE),
    ):
        first.plot(x, reference.activation_fwd(x, kind), color=colour, label=name)
    first.set(title="activations", xlabel="x", ylim=(-1.4, 4))
    first.legend()
    angles = np.radians(np.arange(15, 375, 30))
    arrows = 1.7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for axes, bent, title in (
        (second, np.tanh(1.2 * arrows), "tanh of components: axes show"),
        (third, 0.62 * arrows, "gate: the same factor in all directions"),
    ):
        canvas(axes, (-1.95, 1.95), (-1.95, 1.95), title)
        for before, after in zip(arrows, bent, strict=True):
            arrow(axes, (0, 0), before, FAINT, 1.2)
            arrow(axes, (0, 0), after, RESULT if axes is third else FEATURE, 2)
        outline = np.radians(np.linspace(0, 360, 300))
        circle = 1.7 * np.stack([np.cos(outline), np.sin(outline)])
        axes.plot(*(0.62 * circle if axes is third else np.tanh(1.2 * circle)), color=FAINT, linewidth=1)
    return figure


def backward() -> Figure:
    figure = Figure(figsize=(9.4, 3.4), layout="constrained")
    senders = np.array([[-1.6, 1.1], [-1.9, -0.1], [-1.4, -1.2]])
    centre = np.array([1.2, 0.0])
    panels = figure.subplots(1, 2)
    titles = ("forward: receiver $i$ gathers messages", "backward: each sender gathers cotangents")
    for axes, title, forward in zip(panels, titles, (True, False), strict=True):
        canvas(axes, (-2.6, 3.0), (-1.75, 1.75), title)
        for k, place in enumerate(senders):
            step = (centre - place) / np.linalg.norm(centre - place)
            ends = place + 0.3 * step, centre - 0.34 * step
            start, end = ends if forward else ends[::-1]
            arrow(axes, start, end, RESULT if forward else COTANGENT)
            text = ("$w_e\\,$product$(Y_e, s_j, v_j)$", "$\\partial$product$^T\\,(a_i, A_i)$")[not forward]
            if k == 0:
                middle = (ends[0] + ends[1]) / 2
                axes.text(*(middle + [0.1, 0.22]), text, fontsize=9, color=RESULT if forward else COTANGENT)
            atom(axes, place, 0.26, f"$j_{k + 1}$")
            label = ("$s, v$", "ds, dv")[not forward]
            axes.text(place[0] - 0.38, place[1], label, ha="right", va="center", fontsize=10)
        atom(axes, centre, 0.3, "$i$", "#e6e6e6")
        label = ("$m, M$", "$a, A$")[not forward]
        axes.text(centre[0] + 0.42, centre[1], label, va="center", fontsize=11)
        bottom = "edges sorted by receiver" if forward else "the same edges by sender: sender_perm"
        axes.text(0.2, -1.68, bottom, ha="center", fontsize=9)
    return figure


def forces() -> Figure:
    figure = Figure(figsize=(9.4, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    places = np.array([[0.0, 1.0], [-1.35, -0.55], [1.15, -0.75]])
    pairs, pulls = ((0, 1), (0, 2), (1, 2)), (0.5, -0.7, 0.3)
    titles = ("each edge gives $\\pm f_e$ to its two atoms", "forces: their sums, zero in all")
    for axes, title, summed in zip(panels, titles, (False, True), strict=True):
        canvas(axes, (-2.5, 2.4), (-2.0, 1.9), title)
        total = np.zeros((3, 2))
        for (a, b), pull in zip(pairs, pulls, strict=True):
            line = places[b] - places[a]
            along = line / np.linalg.norm(line)
            d = pull * along + 0.22 * np.array([-along[1], along[0]])
            total[a] += d
            total[b] -= d
            axes.plot(*zip(places[a], places[b], strict=True), color=FAINT, linewidth=1.3, zorder=1)
            if not summed:
                for k, sign in ((a, 1), (b, -1)):
                    arrow(axes, places[k], places[k] + 1.15 * sign * d, COTANGENT, 2)
        if summed:
            for k in range(3):
                arrow(axes, places[k], places[k] + 1.15 * total[k], FEATURE, 2.8)
                axes.text(*(places[k] + 1.15 * total[k] + [0.12, 0.02]), f"$F_{k}$", color=FEATURE)
        for k, place in enumerate(places):
            atom(axes, place, 0.2, f"${k}$", "#e6e6e6")
    return figure


def four_walks() -> Figure:
    figure = Figure(figsize=(10, 4.3), layout="constrained")
    axes = canvas(figure.subplots(), (-3.3, 12.6), (-6.6, 1.5))
    boxes = ("edge_vec", "$r,\\,Y$", "$B(r)$", "$w$", "messages", "features", "$E$")
    rows = (
        ("1  forward", "fwd", "value", RESULT, 1),
        ("2  backward", "bwd", "d", COTANGENT, -1),
        ("3  forward tangent", "fwd_tan", "t", DIRECTION, 1),
        ("4  backward tangent", "bwd_tan", "td", FEATURE, -1),
    )
    width, step = 1.3, 1.85
    for k, label in enumerate(boxes):
        axes.text(k * step + width / 2, 0.85, label, ha="center", va="center", fontsize=10)
    for row, (title, walk, slot, colour, sense) in enumerate(rows):
        y = -1.65 * row
        left = {"ha": "right", "va": "center"}
        axes.text(-0.35, y + 0.13, title, fontsize=10, color=colour, fontweight="bold", **left)
        axes.text(-0.35, y - 0.33, walk, fontsize=8, family="monospace", **left)
        for k in range(len(boxes)):
            box = FancyBboxPatch(
                (k * step, y - 0.38),
                *(width, 0.76),
                boxstyle="round,pad=0,rounding_size=0.16",
                facecolor=PALE,
                edgecolor=colour,
                linewidth=1.2,
            )
            axes.add_patch(box)
            axes.text(k * step + width / 2, y, slot, ha="center", va="center", fontsize=9, family="monospace")
            if k:
                ends = (k * step - step + width + 0.06, y), (k * step - 0.06, y)
                arrow(axes, *(ends if sense > 0 else ends[::-1]), colour, 1.6)
    end = (len(boxes) - 1) * step + width
    axes.text(end + 0.2, -1.65, "1", va="center", fontsize=10, color=COTANGENT)
    axes.text(end + 0.2, -4.95, r"$\partial\ell/\partial E$", va="center", fontsize=10, color=FEATURE)
    start = r"from $t = -\partial\ell/\partial F$"
    axes.text(width / 2, -2.37, "→ forces, loss", ha="center", fontsize=8, color=COTANGENT)
    axes.text(width / 2, -4.02, start, ha="center", fontsize=8, color=DIRECTION)
    weights = 3 * step + width / 2
    arrow(axes, (weights, -5.33), (weights, -5.95), FEATURE, 1.6)
    axes.text(weights, -6.05, "of the weights: d$L$ / d$W$", ha="center", va="top", fontsize=9, color=FEATURE)
    return figure


def soap() -> Figure:
    G = _gradients()
    L, R = np.einsum("tij,tkj->ik", G, G), np.einsum("tij,tik->jk", G, G)
    left, right = (np.linalg.eigh(factor)[1][:, ::-1] for factor in (L, R))
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    first, second, third = figure.subplots(1, 3, width_ratios=[1, 1, 1.1])
    sizes = [np.sqrt(np.mean(X**2, axis=0)) for X in (G, left.T @ G @ right)]
    low, high = np.log10(sizes[1].min()), np.log10(sizes[1].max())
    for axes, size, title in zip((first, second), sizes, ("of $G$", "of $Q_L^T G\\,Q_R$"), strict=True):
        shown = axes.imshow(np.log10(size / 10**high), cmap="Blues", vmin=low - high, vmax=0)
        axes.set(title=f"size {title}", xticks=[], yticks=[])
        axes.grid(False)
    figure.colorbar(shown, ax=second, shrink=0.8, label="log$_{10}$ of the largest")
    share = np.linalg.eigvalsh(L)[::-1] / np.trace(L)
    third.bar(range(1, len(share) + 1), 100 * share, color=FEATURE, width=0.7)
    third.set(title="eigenvalues of $L$, % of their sum", xlabel="direction of rows")
    return figure


def _gradients() -> np.ndarray:
    """Those of the third hundred of training steps on ethanol by one matrix, [100, 16, 16]."""
    train = {"optimizer": "soap", "n_train": 200, "n_valid": 10}
    settings = {"preset": "paper", "model": {"blocks": 3, "features": 32}, "train": train}
    random = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        trainer = Trainer.start(Config.from_dict(settings), FOLDER.parent / "data_tools/ethanol.h5", folder)
        potential = trainer.potential
        start = potential.params.starts["block1.self_in.s"]  # of the even scalars
        place = next(p for p in matrices(potential.model, potential.params.starts) if p.start == start)
        found = []
        for _ in range(300):
            batch, rows = trainer.train.batch(chosen := random.choice(200, 5, replace=False))
            labels, weights = trainer.train.labels(chosen, rows), trainer.atom_weights[rows]
            _, _, gradient = trainer.loss_gradient(batch, labels, weights)
            found.append(gradient[place.index()].astype(np.float64))
            trainer.optimizer.step(trainer.weights, gradient, trainer.rate())
    return np.array(found[200:])


def new_operator() -> Figure:
    figure = Figure(figsize=(10, 3.0), layout="constrained")
    x = np.linspace(0, 1.2, 600)
    inside = x < 1
    cosine = (
        np.where(inside, 0.5 * (1 + np.cos(np.pi * x)), 0),
        np.where(inside, -0.5 * np.pi * np.sin(np.pi * x), 0),
        np.where(inside, -0.5 * np.pi**2 * np.cos(np.pi * x), 0),
    )
    slope = np.where(inside, reference.envelope_derivative(x, 6), 0)
    polynomial = np.where(inside, reference.envelope(x, 6), 0), slope, np.gradient(slope, x)
    titles = "$f$", "$f'$", "$f''$: one of them jumps"
    for axes, a, b, title in zip(figure.subplots(1, 3), cosine, polynomial, titles, strict=True):
        axes.plot(x, a, color=FEATURE, label="cosine")
        axes.plot(x, b, color=DIRECTION, label="envelope, p = 6")
        axes.axvline(1, color=FAINT, linewidth=1, linestyle="--")
        axes.set(title=title, xlabel="r / c", xlim=(0, 1.2))
        if title == "$f$":
            axes.legend()
    return figure


def acetylacetone() -> Figure:
    found = json.loads((FOLDER / "acetylacetone.json").read_text())
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    first, second, third = figure.subplots(1, 3, width_ratios=[1.1, 1, 1.35])
    blocks = sorted({int(name.split(": ")[0]) for name in found["off"] if ": " in name})
    paths = [name for name in found["off"] if ": " not in name]
    changes = np.full((len(paths), len(blocks)), np.nan)
    for k, path in enumerate(paths):
        for b, block in enumerate(blocks):
            if f"{block}: {path}" in found["off"]:
                changes[k, b] = 1000 * found["off"][f"{block}: {path}"]["force_change"]
    first.imshow(np.log10(changes), cmap="Blues", aspect="auto", vmin=np.log10(np.nanmin(changes)) - 1)
    middle = (np.log10(np.nanmax(changes)) + np.log10(np.nanmin(changes))) / 2 - 0.1
    for k, b in np.ndindex(changes.shape):
        value = changes[k, b]
        text = "" if np.isnan(value) else f"{value:.0f}" if value >= 10 else f"{value:.1f}"
        colour = "white" if np.log10(value) > middle else INK
        first.text(b, k, text, ha="center", va="center", fontsize=9, color=colour)
    first.set(
        title="switched off: change of forces, meV/Å",
        xticks=range(len(blocks)),
        xticklabels=blocks,
        yticks=range(len(paths)),
        yticklabels=[path.replace("->", " → ") for path in paths],
        xlabel="block",
    )
    first.grid(False)

    shares = found["shares of forces through directions"]
    names, values = list(shares), [100 * x for x in shares.values()]
    colour = {"0x1->1": DIRECTION, "1x1->0": RESULT, "1x1->1": FEATURE}
    second.barh(range(len(names)), values, color=[colour[name.split(": ")[1]] for name in names], height=0.7)
    second.set(
        title="share of forces through directions, %",
        yticks=range(len(names)),
        yticklabels=[name.replace("->", " → ") for name in names],
    )
    second.invert_yaxis()

    bend, curves = found["bend"], found["curves"]
    for name, colour, style, label in (
        ("both", INK, "-", "both"),
        ("distances", SCALAR, "-", "distances alone"),
        ("directions", DIRECTION, "-", "directions alone"),
        ("directions without 1x1->1", FEATURE, "--", "the same without 1x1 → 1"),
        ("directions without 1x1->0", RESULT, "--", "the same without 1x1 → 0"),
    ):
        third.plot(bend, curves[name], style, color=colour, label=label)
    third.set(title="energy, eV", xlabel="angle O–C–CH$_3$, degrees from the frame's")
    third.legend()
    return figure


PICTURES = {
    f.__name__: f
    for f in (
        edges,
        radial,
        five_products,
        mirror,
        convolution,
        gate,
        backward,
        forces,
        four_walks,
        soap,
        new_operator,
        acetylacetone,
    )
}


def draw(name: str) -> None:
    with rc_context(STYLE):
        figure = PICTURES[name]()
        FigureCanvasAgg(figure)
        with replacing(FOLDER / "pictures" / f"{name}.png") as temporary:
            figure.savefig(temporary, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        draw(name)
