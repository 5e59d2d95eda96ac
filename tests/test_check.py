"""`eqpot check`: consistent potentials pass, each kind of fault is found."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from potentials import cluster_of_nine as molecule
from potentials import narrow_crystal as crystal
from potentials import two_blocks as potential

from eqpot.dynamics import check as checks
from eqpot.dynamics.check import Finding, check
from eqpot.errors import UserError
from eqpot.potential import Potential


def found(model, atoms) -> dict[str, Finding]:
    return {f.question: f for f in check(model, atoms)}


def failed(model, atoms) -> set[str]:
    """First words of the questions that failed, those about pairs of atoms left out."""
    wrong = [q for q, f in found(model, atoms).items() if not f.passed and ":" not in q]
    return {" ".join(q.split()[:2]) for q in wrong}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(checks, "STEPS", 40)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [molecule, crystal])
def test_a_consistent_potential_passes(make, dtype):
    model, atoms = potential(dtype), make()
    before = atoms.positions.copy()
    answers = found(model, atoms)
    assert np.array_equal(atoms.positions, before) and atoms.calc is None
    assert failed(model, atoms) == set()
    assert any(q.startswith("stress") for q in answers) == atoms.pbc.all()
    assert {q.split(":")[0] for q in answers if ":" in q} == {"H-H", "H-C", "H-O", "C-C", "C-O", "O-O"}
    at_edge = [f for q, f in answers.items() if "cutoff" in q]
    assert len(at_edge) == 6 and all(f.passed for f in at_edge)
    assert answers["dynamics in steps of 0.5 fs"].value > 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda r: replace(r, forces=1.01 * r.forces), {"forces against"}),
        (lambda r: replace(r, stress=1.02 * r.stress if r.stress is not None else None), {"stress against"}),
        (lambda r: replace(r, forces=r.forces * [1.01, 1, 1]), {"forces against", "forces turn"}),
        (
            lambda r: replace(r, forces=r.forces * np.linspace(0.98, 1.02, len(r.forces))[:, None]),
            {"forces against", "forces follow"},
        ),
        (lambda r: replace(r, energy=float("nan")), {"forces against", "stress against"}),
    ],
)
def test_a_fault_is_found(fault, words, monkeypatch):
    evaluate = Potential.evaluate

    def faulty(self, atoms):
        one = evaluate(self, atoms)
        return [fault(r) for r in one] if isinstance(one, list) else fault(one)

    monkeypatch.setattr(Potential, "evaluate", faulty)
    monkeypatch.setattr(checks, "_dimer", lambda *_: ())
    assert failed(potential(), crystal()) == words


def test_pairs_that_fall_into_each_other(monkeypatch):
    """A spring between C and O, at rest outside the range of distances where they must repel, then inside."""
    model, evaluate = potential(), Potential.evaluate

    def spring(rest):
        def evaluated(self, atoms):
            results = evaluate(self, atoms)
            for a, r in zip(atoms, results, strict=True):
                r.forces[0, 0] = a.get_distance(0, 1) - rest
            return results

        return evaluated

    for rest, turn in ((1.3, 0.0), (0.9, 0.8 * 1.42), (0.3, 0.8 * 1.42)):
        monkeypatch.setattr(Potential, "evaluate", spring(rest))
        _, squeezed = checks._dimer(model, (6, 8))
        assert squeezed.value == pytest.approx(turn, abs=0.01)
        assert squeezed.passed == (turn == 0)


@pytest.mark.parametrize(
    ("atoms", "asked"),
    [
        (Atoms("H"), set()),
        (Atoms("H", cell=[9, 9, 9], pbc=True), set()),
        (Atoms("HO", [[0, 0, 0], [0, 0, 9.0]]), set()),
        (bulk("C", "fcc", a=3.0), {"stress against"}),
    ],
)
def test_what_does_not_apply_is_not_asked(atoms, asked, recwarn):
    """Without forces there is nothing to compare them with."""
    findings = found(potential("float32"), atoms)
    without = {q for q, f in findings.items() if f.value is None}
    words = {
        "forces against",
        "forces turn",
        "forces follow",
        *(["stress against"] if atoms.pbc.all() else []),
    }
    assert {" ".join(q.split()[:2]) for q in without} == words - asked
    assert all(f.passed and f.unit in ("no forces", "no stress") for q, f in findings.items() if q in without)
    assert all(np.isfinite(f.value) for q, f in findings.items() if q not in without)
    assert not recwarn.list


def test_forces_that_should_be_there_are_asked_for(monkeypatch):
    evaluate = Potential.evaluate

    def without(self, atoms):
        one = evaluate(self, atoms)
        gone = [replace(r, forces=0 * r.forces) for r in ([one] if not isinstance(one, list) else one)]
        return gone if isinstance(one, list) else gone[0]

    monkeypatch.setattr(Potential, "evaluate", without)
    monkeypatch.setattr(checks, "_dimer", lambda *_: ())
    assert failed(potential(), molecule()) >= {"forces against"}


def test_a_model_that_gives_no_numbers_is_refused(recwarn):
    """Weights that overflow are the model's fault, not that of positions some steps later."""
    made = potential()
    made.params.flat[:] = 1e30
    with pytest.raises(UserError, match="finite forces from the model"):
        list(check(made, molecule()))
    assert not recwarn


def test_nan_never_passes():
    assert not Finding("", float("nan"), "", 1.0).passed and Finding("", float("nan"), "").passed


def test_atoms_closer_than_in_training_are_named():
    model = potential("float32")
    atoms = Atoms("OHH", [[0, 0, 0], [0.7, 0, 0], [0, 0.95, 0]])
    model.provenance["closest"] = {"H-O": 0.8, "H-H": 1.1, "C-O": 1.2}
    (told,) = list(checks._closer(model, atoms))
    assert told == Finding("H 1 and O 0 closer than in training (0.800 Å)", pytest.approx(0.7), "Å")
    assert told.passed
    model.provenance["closest"] = {"H-O": 0.6}
    assert not list(checks._closer(model, atoms)) and not list(checks._closer(model, atoms[:1]))
