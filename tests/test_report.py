"""The HTML report: complete in itself, true to its numbers, and alive in a browser without a network."""

from __future__ import annotations

import json
import re
import shutil
import time
from base64 import b64decode
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from scipy.spatial.transform import Rotation

from eqpot.inspect import Inspection, PathResult
from eqpot.network.model import PATHS
from eqpot.report import write_report

CUTOFF = 4.0
TURN = Rotation.from_rotvec([0.4, -0.9, 1.1]).as_matrix()


def inspection(atoms, name="ethanol.xyz", l_max=1, blocks=3, C=8, seconds=1e-4, second=False) -> Inspection:
    """Invented numbers, in which vectors turn up to 1e-6."""
    random, n = np.random.default_rng(0), len(atoms)
    receivers, senders, r = neighbor_list("ijd", atoms, CUTOFF)
    neighbours = [[] for _ in atoms]
    for i, j, d in zip(receivers, senders, r, strict=True):
        neighbours[i].append((int(j), float(d)))
    widths = [C if l_max and 0 < k < blocks else 0 for k in range(blocks + 1)]
    vectors = [random.normal(size=(n, 3, c)) for c in widths]
    present = [
        (block, path)
        for block in range(1, blocks + 1)
        for path in (PATHS if second else PATHS[:5])
        if (path[0] == "0" or l_max and block > 1)
        and (path[-1] == "0" or l_max and (block < blocks or second))
    ]
    radii = np.linspace(0, CUTOFF, 101)[1:]
    energies = random.normal(size=n) - 100 * atoms.numbers
    values = random.normal(size=(len(present), 4)).tolist()
    return Inspection(
        name=name,
        model="<Potential for C H O: o3, l_max 1, 8 features, 3 blocks, cutoff 4 Å, float32>",
        atoms=atoms,
        energy=float(energies.sum()),
        energies=energies,
        forces=random.normal(size=(n, 3)),
        energy_rest=-1.0,
        paths=[
            PathResult(*key, *(abs(a), b), np.full(n, b / n), *(c, 0.01 * abs(d)), 123456, seconds)
            for key, (a, b, c, d) in zip(present, values, strict=True)
        ],
        scalars=[random.normal(size=(n, C)) for _ in widths],
        vectors=vectors,
        rotation=TURN,
        rotated_vectors=[np.einsum("ab,nbc->nac", TURN, v) + 1e-6 for v in vectors],
        radii=radii,
        radial={key: random.normal(size=C) * np.cos(radii[:, None]) for key in present},
        distances=r,
        neighbours=neighbours,
        equivariance=[
            {"block": k, "rotation": 1e-7, "mirror": 2e-7, "permutation": 0.0} for k in range(1, blocks + 1)
        ],
    )


def ethanol() -> Atoms:
    return molecule("CH3CH2OH")


def content(path: Path) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1]
    )


def unpacked(packed: dict) -> np.ndarray:
    return packed["scale"] * np.frombuffer(b64decode(packed["bytes"]), "<i2").reshape(packed["shape"])


def test_numbers_arrive(tmp_path):
    """What the page holds is what was inspected; the deviation of the arrows is that of the vectors."""
    found = inspection(ethanol())
    write_report(found, tmp_path / "report.html")
    data = content(tmp_path / "report.html")
    for stage, s, v, turned in zip(
        data["stages"], found.scalars, found.vectors, found.rotated_vectors, strict=True
    ):
        assert np.abs(unpacked(stage["scalars"]) - s).max() < 1e-4 * np.abs(s).max()
        for packed, values in zip(stage["vectors"], (v, turned), strict=True):
            assert unpacked(packed).shape == values.shape
            assert np.abs(unpacked(packed) - values).max(initial=0) < 1e-4 * np.abs(values).max(initial=1)
        assert stage["deviation"] == pytest.approx(3**0.5 * 1e-6 if v.size else 0, rel=1e-6)
    given, turned = (np.array(structure["positions"]) for structure in data["structures"])
    positions = found.atoms.positions - found.atoms.positions.mean(axis=0)
    assert np.abs(given - positions).max() < 1e-4 and np.abs(turned - positions @ TURN.T).max() < 1e-4
    assert [p["energy_share"] for p in data["paths"]] == [p.energy_share for p in found.paths]
    assert sum(data["histogram"]) == len(found.distances)
    relative = np.array(data["relative"])
    for z in set(found.atoms.numbers):
        mine = found.atoms.numbers == z
        assert relative[mine] == pytest.approx(found.energies[mine] - found.energies[mine].mean(), abs=1e-6)


@pytest.mark.parametrize("cells", [0, 2])
def test_neighbours_of_a_crystal(tmp_path, cells):
    """Images count one by one, at the distances that the inspection has; an atom elsewhere comes back."""
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1] += cells * atoms.cell[0]
    found = inspection(atoms)
    write_report(found, tmp_path / "report.html")
    data = content(tmp_path / "report.html")
    positions, origin = (np.array(data["structures"][0][name]) for name in ("positions", "origin"))
    for i, (mine, expected) in enumerate(zip(data["neighbours"], found.neighbours, strict=True)):
        distances = [float(np.linalg.norm(np.array(p) - positions[i])) for _, *p in mine]
        assert distances == pytest.approx(sorted(r for _, r in expected), abs=2e-4)
        assert sorted(j for j, *_ in mine) == sorted(j for j, _ in expected)
    inside = atoms.cell.scaled_positions(positions - origin)
    assert inside.min() > -1e-3 and inside.max() < 1.001


def test_a_name_of_other_bytes_than_text(tmp_path):
    found = replace(inspection(ethanol()), name="model.h5, a\udcff.xyz")
    write_report(found, tmp_path / "report.html")
    assert r"<title>model.h5, a\udcff.xyz" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_two_hundred_atoms_fit(tmp_path):
    """The largest usual model: 6 blocks of 64 scalars and 64 vectors."""
    random = np.random.default_rng(0)
    atoms = Atoms("O200", 13 * random.random((200, 3)), cell=[13] * 3, pbc=True)
    found = inspection(atoms, blocks=6, C=64)
    start = time.perf_counter()
    write_report(found, tmp_path / "report.html")
    assert time.perf_counter() - start < 10
    assert (tmp_path / "report.html").stat().st_size < 6e6


# ---- in a browser


@dataclass
class Report:
    """A page opened from disk without a network, and what went wrong in it."""

    page: object
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    def run(self, script: str):
        return self.page.evaluate(script)


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip(
            "no chromium found (Debian: apt install chromium): the report was not opened in a browser"
        )
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[test]'"
    )
    with playwright.sync_playwright() as driver:
        # WebGL without a graphics card
        options = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        running = driver.chromium.launch(executable_path=chromium, args=options)
        yield running
        running.close()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens the report of an inspection; at the end, nothing may have gone wrong."""
    context = browser.new_context(offline=True, viewport={"width": 1000, "height": 700})
    context.set_default_timeout(180_000)  # drawing without a graphics card is slow on a busy machine
    report = Report(context.new_page())
    report.page.on("console", lambda said: said.type == "error" and report.complaints.append(said.text))
    report.page.on("pageerror", lambda error: report.complaints.append(str(error)))
    report.page.on("request", lambda request: report.requests.append(request.url))
    file = tmp_path / "report.html"

    def open_(found) -> Report:
        write_report(found, file)
        report.page.goto(file.as_uri())
        return report

    yield open_
    context.close()
    assert report.complaints == []
    assert report.requests == [file.as_uri()]


@pytest.mark.slow
def test_click_slide_and_turn(opened):
    atoms = ethanol()
    report = opened(inspection(atoms))
    assert report.text("h1") == "ethanol.xyz" and "C2H6O, 9 atoms" in report.text("#summary")
    assert (
        report.text("#stage-name") == "after block 2 of 3" and report.text("#atom-title") == "No atom chosen"
    )
    assert "at most 1.7·10⁻⁶" in report.text("#deviation")

    def arrows() -> list[np.ndarray]:
        return [
            np.array([np.subtract(a["end"], a["start"]) for a in report.run(f"arrows({k})")]) for k in (0, 1)
        ]

    one_each = arrows()
    assert len(one_each[0]) == 9
    assert np.linalg.norm(one_each[0], axis=1).max() == pytest.approx(1.8)
    assert np.abs(one_each[0] @ TURN.T - one_each[1]).max() < 1e-3

    # The atom nearest to the camera, at the place where it is drawn.
    front = int(atoms.positions[:, 2].argmax())
    report.page.locator("#given").scroll_into_view_if_needed()
    place = report.run(f"viewers[0].modelToScreen(viewers[0].selectedAtoms({{index: {front}}})[0])")
    report.page.mouse.click(place["x"], place["y"] - report.run("window.scrollY"))
    assert report.text("#atom-title") == f"Atom {atoms.symbols[front]}{front}"
    rows = report.run(
        "[...document.querySelectorAll('#neighbours tbody tr')].map(r => r.innerText.split('\\t'))"
    )
    distances = atoms.get_distances(front, range(9))
    order = [i for i in np.argsort(distances) if i != front and distances[i] < CUTOFF]
    assert [float(row[1]) for row in rows] == pytest.approx(distances[order], abs=1e-3)
    assert {row[0] for row in rows} == {f"{atoms.symbols[i]}{i}" for i in order}
    assert report.run("document.querySelectorAll('#strips > svg').length") == 2
    assert len(arrows()[0]) == 6

    scalars = report.run("document.querySelector('#strips svg').innerHTML")
    report.page.focus("#stage")
    report.page.keyboard.press("ArrowLeft")
    assert report.text("#stage-name") == "after block 1 of 3" and report.text("#radial-block") == "block 1"
    assert report.run("document.querySelector('#strips svg').innerHTML") != scalars
    assert report.run("document.querySelectorAll('#radial > svg').length") == 2
    report.page.keyboard.press("End")
    assert "No arrows" in report.text("#arrows") and arrows()[0].size == 0

    def views() -> np.ndarray:
        return np.array(report.run("viewers.map((viewer) => viewer.getView())"))

    before, picture = views(), report.page.locator("#turned").screenshot()
    box = report.page.locator("#given").bounding_box()
    report.page.mouse.move(box["x"] + 30, box["y"] + 30)
    report.page.mouse.down()
    report.page.mouse.move(box["x"] + 150, box["y"] + 90, steps=4)
    report.page.mouse.up()
    after = views()
    assert np.array_equal(before[0], before[1]) and np.array_equal(after[0], after[1])
    assert np.abs(after[0] - before[0])[4:].max() > 0.1
    assert report.page.locator("#turned").screenshot() != picture
    assert report.text("#atom-title") != "No atom chosen", "a drag is not a click"


@pytest.mark.slow
@pytest.mark.parametrize("second", [False, True], ids=["five paths", "all paths"])
def test_quantities(opened, second):
    found = inspection(ethanol(), second=second)
    report = opened(found)
    for key, unit, factor in (
        ("energy_share", "eV", 1),
        ("force_change_off", "meV/Å", 1000),
        ("message_norm", "messages", 1),
    ):
        report.page.check(f"#quantities input[value={key}]")
        assert report.text("#map caption").endswith(unit)
        cells = report.run(
            "[...document.querySelectorAll('#map td[style]')].map(c => Number(c.innerText.replace('−', '-')))"
        )
        expected = [factor * getattr(p, key) for path in PATHS for p in found.paths if p.path == path]
        assert cells == pytest.approx(expected, abs=0.0051 * np.abs(expected).max())


BAD_NAME = "</script><img src=x onerror=alert(1)>$x&amp;'\".xyz"


@pytest.mark.slow
@pytest.mark.parametrize(
    "found",
    [
        pytest.param(inspection(ethanol(), BAD_NAME, l_max=0, seconds=float("nan")), id="scalars only"),
        pytest.param(inspection(Atoms("H", [[1, 2, 3]])), id="one atom"),
        pytest.param(inspection(bulk("Cu", cubic=True)), id="crystal"),
        pytest.param(inspection(Atoms("Cu", cell=[2.5, 2.5, 0], pbc=[True, True, False])), id="sheet"),
    ],
)
def test_every_structure_opens(opened, found):
    report = opened(found)
    assert report.text("h1") == found.name and report.run("document.title") == found.name
    assert report.run("document.images.length") == 0
    report.page.fill("#atom", "0")
    report.page.keyboard.press("Enter")
    assert report.text("#atom-title") == f"Atom {found.atoms.symbols[0]}0"
    rows = report.run("document.querySelectorAll('#neighbours tbody tr').length")
    assert rows == len(found.neighbours[0])
    assert (
        report.run("cellEdges(data.structures[0]).length") == {0: 0, 2: 4, 3: 12}[int(found.atoms.pbc.sum())]
    )
    assert not re.search("NaN|undefined|null|Infinity", report.text("body").replace(found.name, ""))
    assert ("–" in report.text("#cost")) == np.isnan(found.paths[0].seconds)
