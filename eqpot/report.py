"""An inspection as one HTML page that needs nothing beside it: no network, no other file.

The page is report_files/report.html with its style, its script, the viewer 3Dmol.js and the numbers put in.
Numbers and names travel as JSON and reach the page as text only, so that no file name can be read as HTML.
"""

import json
from base64 import b64encode
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from eqpot.files import replacing
from eqpot.inspect import Inspection, PathResult

UNITS = {
    "energy": "eV",
    "energies": "eV",
    "energy_rest": "eV",
    "message_norm": "1",
    "energy_share": "eV",
    "energy_change_off": "eV",
    "force_change_off": "eV/Å",
    "operations": "1",
    "seconds": "s",
}
BIN = 0.1  # Å, width of the histogram of distances
FILES = files("eqpot") / "report_files"


def write_report(inspection: Inspection, path: str | Path) -> None:
    """Write an inspection to `path` as an HTML page; UserError where that cannot be written."""
    parts = {
        "title": escape(inspection.name),
        "bin": f"{BIN:g}",
        "style": _read("report.css"),
        "viewer": _inline(_read("3Dmol-min.js")),
        "script": _inline(_read("report.js")),
        "data": json.dumps(_content(inspection), separators=(",", ":")).replace("<", "\\u003c"),
        "licence": escape(_read("3Dmol.LICENSE")),
    }
    page = Template(_read("report.html")).substitute(parts)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")  # names of files


def _read(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script in which no string ends the element around it."""
    return script.replace("</script", "<\\/script")


def _content(found: Inspection) -> dict[str, Any]:
    """What report.js reads: the JSON of an inspection and more, lengths in Å, forces in eV/Å."""
    atoms, rotation = found.atoms, found.rotation
    positions, origin = _placed(atoms)
    closest = float(min(found.distances, default=0))
    energies = np.asarray(found.energies)
    mean = {z: energies[atoms.numbers == z].mean() for z in set(atoms.numbers)}
    given = {"positions": positions, "origin": origin, "cell": atoms.cell.array[atoms.pbc]}
    plain = to_json(found)
    for row in plain["paths"]:
        w = found.radial[row["block"], row["path"]]
        row["radial"] = _packed(_bounded(w, found.radii >= closest))
    return plain | {
        "name": found.name,
        "model": found.model,
        "formula": atoms.get_chemical_formula(),
        "symbols": atoms.get_chemical_symbols(),
        # As given, and turned about the origin: one camera serves both.
        "structures": [
            {key: _numbers(x @ r.T, 4) for key, x in given.items()} for r in (np.eye(3), rotation)
        ],
        "neighbours": _neighbours(atoms, found.distances, positions),
        "rotation": _numbers(rotation, 12),
        "relative": _numbers([e - mean[z] for e, z in zip(energies, atoms.numbers, strict=True)], 6),
        "forces": _numbers(found.forces, 5),
        "stages": [
            {
                "scalars": _packed(s),
                "vectors": [_packed(v), _packed(turned)],
                **_deviation(v, turned, rotation),
            }
            for s, v, turned in zip(found.scalars, found.vectors, found.rotated_vectors, strict=True)
        ],
        "radii": _numbers(found.radii, 4),
        "closest": closest,
        "bin": BIN,
        "histogram": np.bincount((np.asarray(found.distances) / BIN).astype(int)).tolist(),
        "equivariance": found.equivariance,
    }


def _numbers(x: Any, decimals: int) -> list:
    return np.round(np.asarray(x, float), decimals).tolist()


def _packed(x: np.ndarray) -> dict[str, Any]:
    """An array as 16-bit fixed point, a fifth of its size in digits and finer than any picture."""
    scale = float(np.abs(x).max(initial=0)) / 32767 or 1.0
    return {
        "shape": x.shape,
        "scale": scale,
        "bytes": b64encode(np.rint(x / scale).astype("<i2").tobytes()).decode(),
    }


def _bounded(w: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Functions w [M, C], which may be huge where no distance occurs, cut off beyond what the page shows."""
    largest = 2 * np.abs(w[seen]).max(initial=0)
    return np.clip(w, -largest, largest)


def _deviation(v: np.ndarray, turned: np.ndarray, rotation: np.ndarray) -> dict[str, float]:
    """Of v [n, 3, C] from before the rotation, turned with it, and vectors computed after it."""
    difference = np.einsum("ab,nbc->nac", rotation, v) - turned
    return {
        "deviation": float(np.linalg.norm(difference, axis=1).max(initial=0)),
        "longest": float(np.linalg.norm(v, axis=1).max(initial=0)),
    }


def _placed(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Positions [n, 3] for the picture, their mean in the origin, and the corner of the cell.

    Where periodic atoms have left the cell, they are moved into one around their mean position: that neither
    scatters a liquid nor tears a molecule.
    """
    positions, origin = atoms.positions, np.zeros(3)
    scaled = atoms.cell.scaled_positions(positions)
    if np.any(np.abs(scaled[:, atoms.pbc] - 0.5) > 0.501):
        centre = scaled.mean(axis=0)
        positions = atoms.get_positions(wrap=True, center=centre)
        origin = (centre - 0.5)[atoms.pbc] @ atoms.cell.array[atoms.pbc]
    mean = positions.mean(axis=0)
    return positions - mean, origin - mean


def _neighbours(atoms: Atoms, distances: np.ndarray, positions: np.ndarray) -> list[list]:
    """Of each atom (neighbour, position [3] of the image that is meant), the closest first."""
    reach = max(distances, default=0.0) + 1e-6
    receivers, senders, r, shifts = neighbor_list("ijdD", atoms, reach)
    found: list[list] = [[] for _ in atoms]
    for k in np.argsort(r, kind="stable"):
        i = receivers[k]
        found[i].append([int(senders[k]), *_numbers(positions[i] + shifts[k], 4)])
    return found


def to_json(found: Inspection) -> dict[str, Any]:
    """Energies, paths and units as plain values; None for a time that was not measured."""
    names = [name for name in PathResult.__dataclass_fields__ if name != "energy_shares"]
    rows = [{name: getattr(path, name) for name in names} for path in found.paths]
    for row in rows:
        row["seconds"] = None if np.isnan(row["seconds"]) else row["seconds"]
    return {
        "energy": found.energy,
        "energies": found.energies.tolist(),
        "energy_rest": found.energy_rest,
        "paths": rows,
        "units": UNITS,
    }
