"""Damaged files and odd options to every command: no traceback, signal, hang, stray file, or wrong number.

    python tests/fuzz.py                            10,000 cases, the seed made from the date
    python tests/fuzz.py --seed 20260728 --case 17  one of them again
    python tests/fuzz.py --only model --cases 500 --keep failures

A case is a copy of sound files, small ones, one of which is damaged (see `mutations`), and a command that
reads it. The command runs in a process forked from this one, where everything is imported and nothing is
computed, with 4 GB of address space and 25 s. It must end with status 0, or with status 2 and one line,
"error: ..."; say nothing else on stderr; print no escape sequence, and neither NaN nor infinity; leave its
inputs as they were; and write its outputs whole, or not at all.

In eqpot's own files damaged bytes may be accepted only if all numbers come out as without the damage, and
what no sound file has (an array or a setting missing, other shapes, NaN, links out of the file) not at all.
"""

import argparse
import datetime
import gc
import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

# Before Numba and BLAS are loaded: nothing may start a thread, which no fork survives.
os.environ |= {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import ase.io
import h5py
import numpy as np
from fuzz_cases import KINDS, Case, kind_of, prepare, take, warm_up
from mutations import ILLEGAL

from eqpot.cli import main

SECONDS = 25
MEMORY = 4 << 30  # bytes
LONG = 6  # s: then a computation that has begun is asked to stop
BEGUN = {
    "fit": "training frame",
    "learn": "run folder",
    "md": "run folder",
    "relax": "step",
    "data sample": "",
}
MODULES = """training.trainer dynamics.simulation engines.training_walks dynamics.relax dynamics.check inspect
network.steps plots report commands.progress benchmark commands.analyze data_tools.commands
learning.rounds"""


# ------------------------------------------------------------ one command


@dataclass
class Outcome:
    """How a command ended, and what it said."""

    status: int = 0  # as os.waitstatus_to_exitcode
    ended: str = ""  # "", "hang", "stopped": a long computation by Ctrl-C
    out: str = ""
    err: str = ""
    seconds: float = 0.0


def execute(arguments: list[str], folder: Path, logs: Path, longer: float = 1.0) -> Outcome:
    """Run a command in a folder, in a process of its own, which gets SECONDS times `longer`."""
    logs.mkdir(exist_ok=True)
    began = time.monotonic()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        _in_child(arguments, folder, logs)
    status = _wait(child, LONG)
    out, ended = logs / "out", ""
    words = Case(arguments).command
    if status is None and words in BEGUN and BEGUN[words] in out.read_text(errors="replace"):
        os.kill(child, signal.SIGINT)
        ended = "stopped"
    if status is None:
        status = _wait(child, longer * SECONDS - LONG)
    if status is None:
        status, ended = -signal.SIGKILL, "hang"
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what it started
    if ended == "hang":
        os.waitpid(child, 0)
    text = [(logs / name).read_bytes().decode(errors="replace") for name in ("out", "err")]
    return Outcome(status, ended, *text, time.monotonic() - began)


def _wait(child: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        left = end - time.monotonic()
        if left <= 0:
            return None
        signal.sigtimedwait({signal.SIGCHLD}, left)


def _in_child(arguments: list[str], folder: Path, logs: Path) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.argv = ["eqpot", *arguments]
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


# ------------------------------------------------------------ the verdict


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if stat.S_ISREG(p.lstat().st_mode)
    }


# where a computation has begun: what it has reached is kept
KEPT = re.compile(
    r"not relaxed|did not converge|no lower|training diverged|step \d+: |after step|checks failed"
)
NOT_FINITE = re.compile(r"(?<![\w./-])[-+]?(nan|inf)(?![\w./-])", re.IGNORECASE)


def judge(
    case: Case, outcome: Outcome, before: dict[str, bytes], folder: Path, sound: dict | None
) -> list[str]:
    """What is wrong, each as "class: detail"."""
    after = contents(folder)
    faults = _of_ending(case, outcome)
    for name, data in before.items():
        inside = case.resumed and (case.resumed == "." or name.startswith(case.resumed + "/"))
        overwritten = "--overwrite" in case.arguments
        if after.get(name) != data and not inside and not overwritten:
            faults.append(f"an input changed: {name}")
    new = [name for name in after if name not in before]
    for name in new:
        if Path(name).name.startswith(".") or name == "unpickled":
            faults.append(f"a stray file: {name}")
        elif outcome.status == 2 and not case.resumed and not KEPT.search(outcome.err):
            faults.append(f"left behind: {name} ({outcome.err.strip()[:200]})")
    for name in new + [n for n in after if case.resumed and after[n] != before.get(n)]:
        if name != case.damaged and (fault := broken(folder / name)):
            faults.append(f"an output broken: {name}: {fault}")
    if outcome.status == 0:
        faults += _of_numbers(case, outcome, before, folder, sound)
    return faults


def _of_ending(case: Case, outcome: Outcome) -> list[str]:
    if outcome.ended == "hang":
        return [f"hang: {SECONDS} s"]
    if outcome.ended == "stopped":
        sound = outcome.status in (0, 130) and not outcome.err.strip()
        return [] if sound else [f"stopped with status {outcome.status}: {outcome.err[:200]!r}"]
    if outcome.status < 0:
        return [f"signal: {signal.Signals(-outcome.status).name}"]
    if "Traceback" in outcome.err:
        where = re.findall(r'File ".*?([^/"]+/[^/"]+)", line (\d+), in (\S+)', outcome.err)
        inside = [w for w in where if w[0].startswith(("eqpot/", "data_tools/", "kernels/"))] or where
        return [
            f"traceback: {outcome.err.splitlines()[-1][:150]} in {' '.join(inside[-1]) if inside else '?'}"
        ]
    if "internal error" in outcome.err:
        return [outcome.err.strip()[:300]]
    if "\x1b" in outcome.out + outcome.err:
        return ["an escape sequence on the terminal"]
    lines = outcome.err.splitlines()
    if outcome.status == 0 and lines:
        return [f"words on stderr: {lines[0][:200]}"]
    if outcome.status == 2 and (len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) < 15):
        return [f"not one line: {outcome.err[:300]!r}"]
    if outcome.status not in (0, 2):
        return [f"status {outcome.status}: {outcome.err[:200]!r}"]
    return []


def _of_numbers(
    case: Case, outcome: Outcome, before: dict[str, bytes], folder: Path, sound: dict | None
) -> list[str]:
    faults = []
    echoed = NOT_FINITE.search("\n".join(case.arguments)) or "level_of_theory" in case.said
    said = [] if echoed else [line for line in outcome.out.splitlines() if NOT_FINITE.search(line)]
    if said:
        faults.append(f"not finite: {said[0].strip()[:150]}")
    if case.own and case.legal is ILLEGAL:
        faults.append("accepted: what no sound file has")
    elif case.own and case.legal is None:
        found = numbers(case, outcome, before, folder)
        differing = sorted(k for k in found.keys() | sound.keys() if found.get(k) != sound.get(k))
        if differing:
            faults.append(f"accepted: other numbers: {', '.join(differing)[:150]}")
    return faults


def numbers(case: Case, outcome: Outcome, before: dict[str, bytes], folder: Path) -> dict[str, object]:
    """What a command gave, without sizes, hashes and times; by name of an output."""
    found: dict[str, object] = {}
    if case.results == ("",) and case.command != "md":  # which tells its speed
        text = re.sub(r"[\d.]+ [kM]B|\b[0-9a-f]{12,}|\d+(\.\d+)? m?s\b", "", outcome.out)
        if case.command == "inspect":  # its last column is of times
            text = re.sub(r"(?m)^(.*->.*?)[\d.]+ *$", r"\1", text)
        if case.command == "fit":  # its second one
            text = re.sub(r"(?m)^(\s*\d+\s+)[\d.]+", r"\1", text)
        found["stdout"] = re.sub(r"(?m)^(\s*\d+(\s+[\d.e-]+)+)\s+[\d.]+ ?s?( \*)?$", r"\1", text)
    for name, data in contents(folder).items():
        path = Path(name)
        if before.get(name) == data or not path.name.startswith(case.results):
            continue
        if path.suffix == ".h5":
            found |= {f"{name} {key}": value for key, value in _arrays(folder / name).items()}
        elif path.name == "log.csv":
            rows = [line.split(",") for line in data.decode().splitlines()]
            found[name] = [row[:1] + row[2:] for row in rows]
        elif path.suffix in (".csv", ".traj", ".extxyz", ".json", ".toml"):
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def _arrays(path: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    with h5py.File(path, "r") as file:
        for key in ("config", "dtype", "mean_neighbours", "level_of_theory"):
            if key in file.attrs:
                found[key] = str(file.attrs[key])

        def keep(name: str, item: h5py.HLObject) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = repr(item[()].tolist())

        file.visititems(keep)
    return found


def broken(path: Path) -> str:
    """Why an output is not whole, by its ending; empty where it is."""
    try:
        data = path.read_bytes()
        if path.suffix == ".h5":
            for name, value in _arrays(path).items():
                if name not in ("energy", "forces", "stress", "level_of_theory") and re.search(
                    r"\b(nan|inf)\b", str(value)
                ):
                    return f"{name} is not finite"
        elif path.suffix == ".json" or data.startswith(b"{"):  # --json may name any file
            json.loads(data, parse_constant=float)
        elif path.suffix == ".png":
            assert data.endswith(b"IEND\xaeB`\x82"), "no end"
        elif path.suffix in (".csv", ".toml", ".html"):
            assert data.endswith(b"\n"), "no end"
        elif path.suffix in (".traj", ".extxyz") and not data.startswith(b"<!doctype html>"):  # nor --output
            assert len(ase.io.read(path, ":")) > 0, "no frames"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:150]
    return ""


# ------------------------------------------------------------ many cases


@dataclass
class Report:
    """One case, for the table."""

    number: int
    kind: str
    accepted: bool
    ended: str
    faults: list[str]
    said: str
    line: str
    seconds: float


def build(seed: int, number: int, only: str, work: Path) -> tuple[str, Case, Path]:
    """The files of a case in a folder of its own."""
    folder = work / f"case{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    kind = kind_of(seed, number, only)
    return kind, KINDS[kind][0](np.random.default_rng([seed, number, 1]), folder), folder


def run_one(seed: int, number: int, only: str, work: Path, keep: Path | None) -> Report:
    """Build a case, run its command, judge what came of it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    resource.setrlimit(resource.RLIMIT_AS, (2 * MEMORY, 2 * MEMORY))  # what is written may be broken, too
    kind, case, folder = build(seed, number, only, work)
    logs = work / f"logs{number}"
    before = contents(folder)
    outcome = execute(case.arguments, folder, logs)
    if outcome.ended == "hang":  # once more: this machine may have been busy, or compiling
        build(seed, number, only, work)
        outcome = execute(case.arguments, folder, logs, 20 if "compiling" in outcome.err else 2)
    sound = sound_numbers(case, work) if case.own and case.legal is None and outcome.status == 0 else None
    faults = judge(case, outcome, before, folder, sound)
    if faults and keep:
        kept = keep / f"{seed}-{number}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(build(seed, number, only, work)[2], kept)
        (kept / "case.txt").write_text(
            f"{kind}: {case.said}\neqpot {shlex.join(case.arguments)}\n{faults}\n{outcome.err}\n",
            errors="replace",
        )
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(logs)
    line = f"eqpot {shlex.join(case.arguments)}"
    return Report(number, kind, outcome.status == 0, outcome.ended, faults, case.said, line, outcome.seconds)


def run_case(seed: int, number: int, only: str, work: Path, keep: Path | None) -> Report:
    """As `run_one`; what goes wrong in here is a failure like others."""
    try:
        return run_one(seed, number, only, work, keep)
    except Exception:
        last = traceback.format_exc().splitlines()
        fault = f"the fuzzer itself: {last[-1]} in {last[-3].strip()}"
        return Report(number, kind_of(seed, number, only), False, "", [fault], "", "", 0.0)


def sound_numbers(case: Case, work: Path) -> dict[str, object]:
    """What a command gives on the files without damage; remembered."""
    key = hashlib.sha256(repr((case.arguments, case.results, case.files)).encode()).hexdigest()[:16]
    memory = work / f"sound-{key}.json"
    if not memory.exists():
        folder = work / f"sound-{os.getpid()}"
        folder.mkdir()
        try:
            text = json.dumps(_on_sound_files(case, folder, work / f"logs-{os.getpid()}"))
        finally:
            shutil.rmtree(folder)
        temporary = memory.with_suffix(f".{os.getpid()}")
        temporary.write_text(text)
        temporary.rename(memory)
    return json.loads(memory.read_text())


def _on_sound_files(case: Case, folder: Path, logs: Path) -> dict[str, object]:
    clean = Case(case.arguments, results=case.results)
    take(folder, clean, *case.files)
    before = contents(folder)
    outcome = execute(case.arguments, folder, logs)
    if outcome.status:
        ended = outcome.ended or f"status {outcome.status}"
        raise RuntimeError(f"eqpot {shlex.join(case.arguments)}: {ended} on sound files: {outcome.err}")
    return numbers(clean, outcome, before, folder)


def in_fork(action: Callable[[], None], folder: Path) -> None:
    """Do something in a process of its own; end this one where it fails."""
    child = os.fork()
    if not child:
        os.chdir(folder)
        code = 1
        try:
            with open(os.devnull, "w") as sink:
                os.dup2(sink.fileno(), 1)
                action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        sys.exit("error: the sound files could not be made")


def show(reports: list[Report], seed: int, keep: Path | None) -> None:
    """Counts by kind, then each class of failures with one case of it."""
    print(f"{'':<12}{'cases':>7}{'accepted':>10}{'refused':>9}{'stopped':>9}{'failed':>8}{'s/case':>8}")
    for kind in [*KINDS, "all"]:
        chosen = [r for r in reports if kind in (r.kind, "all")]
        if chosen:
            failed = sum(bool(r.faults) for r in chosen)
            stopped = sum(r.ended == "stopped" for r in chosen)
            accepted = sum(r.accepted for r in chosen)
            each = sum(r.seconds for r in chosen) / len(chosen)
            counts = (len(chosen), accepted, len(chosen) - accepted - stopped, stopped, failed)
            print(
                f"{kind:<12}"
                + "".join(f"{n:>{w}}" for n, w in zip(counts, (7, 10, 9, 9, 8), strict=True))
                + f"{each:>8.2f}"
            )
    classes: dict[tuple[str, str], list[tuple[Report, str]]] = {}
    for report in reports:
        for fault in report.faults:
            name = re.sub(r"\d+|'.*?'|0x\w+", "#", fault)[:70]
            classes.setdefault((report.kind, name), []).append((report, fault))
    for (kind, _), cases in sorted(classes.items(), key=lambda item: -len(item[1])):
        report, fault = min(cases, key=lambda found: len(found[0].line) + len(found[0].said))
        where = f"in {keep}/{seed}-{report.number}: " if keep else ""
        print(
            f"\n{kind}, {len(cases)} cases: {fault}\n    {report.said[:300]}\n    {where}{report.line[:400]}"
        )
        print(f"    python tests/fuzz.py --seed {seed} --only {shlex.quote(kind)} --case {report.number}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000, metavar="N")
    parser.add_argument("--seed", type=int, default=int(f"{datetime.date.today():%Y%m%d}"), help="[the date]")
    parser.add_argument("--only", choices=KINDS, default="", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--case", type=int, metavar="K", help="The K-th case only.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="Keep the files of cases that fail.")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    return parser.parse_args()


def run() -> int:
    given = parse()
    print(f"seed {given.seed}", flush=True)
    for module in MODULES.split():
        import_module(f"eqpot.{module}")
    if given.keep:
        given.keep = given.keep.resolve()
        given.keep.mkdir(parents=True, exist_ok=True)
    numbers_of_cases = range(given.cases) if given.case is None else [given.case]
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        work = Path(name)
        (work / "sound").mkdir()
        in_fork(prepare, work / "sound")
        if given.only in ("", "TOML", "options") and given.case is None:
            in_fork(warm_up, work / "sound")
        untouched = contents(work / "sound")
        gc.freeze()  # or each child's collections copy the pages of all that is imported
        reports: list[Report] = []
        with ProcessPoolExecutor(given.jobs, mp_context=get_context("fork")) as pool:
            tasks = [
                pool.submit(run_case, given.seed, k, given.only, work, given.keep) for k in numbers_of_cases
            ]
            for k, task in enumerate(tasks):
                reports.append(task.result())
                if sys.stderr.isatty():
                    failed = sum(bool(r.faults) for r in reports)
                    print(f"\r{k + 1} cases, {failed} failed", end="", file=sys.stderr)
        if contents(work / "sound") != untouched:
            sys.exit("error: a command changed files outside its folder")
    show(reports, given.seed, given.keep)
    return int(any(report.faults for report in reports))


if __name__ == "__main__":
    sys.exit(run())
