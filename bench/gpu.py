"""What an NVIDIA card is asked, most informative first: is it right, and how fast, beside the CPU.

    python bench/gpu.py --minutes 8 --out DIR                  # everything, as far as the time goes
    python bench/gpu.py --minutes 2 --out DIR --only forces    # or some parts of it
    python bench/gpu.py --table DIR                            # keep that, and write the table in README.md

It needs what `pip install '.[cuda]'` brings; in a checkout that is not installed, PYTHONPATH=. finds eqpot.
Each part, see `gpu_parts.py`, is a process of its own with a limit of time; those that ask whether numbers
are right run several at a time, those that take times alone. Every answer is a line of DIR/rows.jsonl as soon
as it is there, and on the screen; what a part says, its tracebacks and where it hung are in DIR/PART.log. At
the end stands what failed. Published data (EQPOT_DATA or ../shared/data) are used where they are; else
structures are made.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_parts import PARTS, Row
from recording import check_device, command_line, results_path
from workloads import HERE

from eqpot.errors import UserError
from eqpot.files import replacing, write_json
from eqpot.stops import answering, interrupt
from eqpot.threads import cores

ROWS = "rows.jsonl"
TOGETHER = min(cores(), 6)  # parts at a time: each holds some hundred megabytes of the card
GRACE = 5.0  # s that a part has to say where it hangs
LEAST = 3.0  # s for which no part is begun
ALONE = ("side by side", "training", "by blocks", "kernels")  # parts that take times
# How much of the time a part may take at most, by the beginning of its name; else a fifth.
SHARES = {"card": 0.1, "operator": 0.4, "compiling": 0.4, "forces": 0.3, "gradients": 0.3, "kernels": 1.0}
README = HERE / "README.md"
TABLE = re.compile(r"(?<=<!-- table of bench/gpu.py -->\n)(.*?)(?=<!-- end of the table -->)", re.DOTALL)
NO_CARD = "No card has run it yet, so there is no number to show.\n"


# ------------------------------------------------------------ rows


def add(out: Path, row: Row) -> None:
    """One line more, in a single write, whoever else writes; and on the screen."""
    line = json.dumps(row, default=lambda number: number.item()) + "\n"
    number = os.open(out / ROWS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(number, line.encode())
    finally:
        os.close(number)
    print(summary(row), flush=True)


def rows_of(out: Path) -> list[Row]:
    """All rows so far; a line that a full disk cut off is none."""
    found = []
    for line in (out / ROWS).read_text().splitlines() if (out / ROWS).exists() else ():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def summary(row: Row) -> str:
    """A line."""
    about = ", ".join(row[key] for key in ("part", "question") if key in row)
    for word in ("failed", "left out"):
        if word in row:
            return f"{about}: {word}: {row[word]}"
    kinds = {float: lambda x: f"{x:.3g}", int: str, str: str}
    cells = [
        f"{key} {kinds[type(value)](value)}"
        for key, value in row.items()
        if key not in ("part", "question", "took") and type(value) in kinds
    ]
    return f"{about}: {', '.join(cells)}"


# ------------------------------------------------------------ a part, in a process of its own


def answer(name: str, out: Path) -> None:
    """Ask all questions of a part, whatever becomes of each."""
    for question, ask in PARTS[name]():
        print(f"{question} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            row = ask()
        except Exception as e:
            traceback.print_exc()
            row = {"failed": f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"}
        add(out, {"part": name, "question": question, **row, "took": time.monotonic() - began})


def command_of(name: str, out: Path, limit: float) -> list[str]:
    return [sys.executable, __file__, "--part", name, "--minutes", f"{limit / 60}", "--out", str(out)]


def log_of(name: str) -> str:
    return f"{re.sub('[^a-z0-9]+', '_', name.lower())}.log"


# ------------------------------------------------------------ all parts


def stages(names: Sequence[str]) -> list[list[str]]:
    """Parts in their order, those together that may run at once: the card, what is right, then one by one."""
    first = [[name] for name in names if name == "card"]
    alone = [[name] for name in names if name.startswith(ALONE)]
    kinds = (("compiling", "operator", "neighbours"), ("forces", "gradients"), ("recorded",))
    together = [[name for name in names if name.startswith(kind)] for kind in kinds]
    return [*first, *together, *alone]


def ask_all(
    names: Sequence[str],
    out: Path,
    seconds: float,
    command: Callable[[str, Path, float], list[str]] = command_of,
) -> None:
    """Every part, while there is time; a part that could not end well is a row, too."""
    ends = time.monotonic() + seconds

    def limit(name: str) -> float:
        share = next((share for begins, share in SHARES.items() if name.startswith(begins)), 0.2)
        return min(share * seconds, ends - time.monotonic())

    for stage in stages(names):
        _ask_together(stage, out, limit, command)


def _ask_together(waiting: list[str], out: Path, limit: Callable[[str], float], command: Callable) -> None:
    running: dict[str, tuple[subprocess.Popen, float, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < TOGETHER:
                name = waiting.pop(0)
                allowed = limit(name)
                if allowed < LEAST:
                    add(out, {"part": name, "left out": "no time was left"})
                    continue
                with open(out / log_of(name), "w") as log:
                    process = subprocess.Popen(
                        command(name, out, allowed), stderr=log, start_new_session=True
                    )
                running[name] = process, allowed, time.monotonic() + allowed + GRACE
            for name, (process, allowed, killed) in list(running.items()):
                if process.poll() is None and time.monotonic() < killed:
                    continue
                del running[name]
                code = _end(process)
                if code:
                    late = time.monotonic() > killed - GRACE
                    why = f"not done after {allowed:.0f} s" if late else f"its process ended with {code}"
                    add(out, {"part": name, "failed": f"{why}; see {log_of(name)}"})
            time.sleep(0.02)
    finally:
        for process, *_ in running.values():
            _end(process)


def _end(process: subprocess.Popen) -> int:
    """Its exit status, of a part that is killed where it still runs; the card's driver may hold even that."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    return -signal.SIGKILL if process.returncode is None else process.returncode


# ------------------------------------------------------------ the table


def keep(out: Path) -> Path:
    """A run among the results, in a file that names the card; UserError where no card answered."""
    rows = rows_of(out)
    machine = next((r for r in rows if r.get("question") == "machine" and "gpu" in r), None)
    if machine is None or "simulator" in machine["gpu"]:
        raise UserError(f"{out / ROWS}: expected the answers of a card, found none")
    path = results_path(machine["gpu"])
    write_json(path, {"machine": machine, "rows": [{k: _finite(v) for k, v in r.items()} for r in rows]})
    return path


def _finite(value: Any) -> Any:
    return str(value) if value in (float("inf"), float("-inf")) or value != value else value


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Times on the CPU and on each card, as Markdown."""
    return "\n".join(map(_run_table, runs)) if runs else NO_CARD


def _run_table(run: dict[str, Any]) -> str:
    machine, rows = run["machine"], run["rows"]
    failed = [row for row in rows if "failed" in row]
    lines = [
        f"{machine['gpu']}, driver for CUDA {machine['driver']}, beside {machine['cores']} cores of "
        f"{machine['cpu']}; eqpot {machine['eqpot']}, {machine['date']}. Of {len(rows)} answers "
        f"{len(failed)} failed{': ' + ', '.join(sorted({r['part'] for r in failed})) if failed else ''}.",
        "",
        "| | atoms | CPU, ms | GPU, ms | CPU / GPU |",
        "|---|---|---|---|---|",
    ]
    for kind, key in (("side by side", "calculator_seconds"), ("training", "step_seconds")):
        times: dict[str, dict[str, Row]] = {}
        for row in rows:
            if row["part"].startswith(kind) and key in row:
                times.setdefault(row["part"], {})[row["device"]] = row
        for found in times.values():
            one = next(iter(found.values()))
            cpu, gpu = (found[device][key] if device in found else None for device in ("cpu", "cuda"))
            step = f"training step, {one.get('batch')} frames of " if kind == "training" else "force call, "
            cells = [f"{1e3 * t:.3g}" if t else "" for t in (cpu, gpu)]
            ratio = f"{cpu / gpu:.3g}" if cpu and gpu else ""
            lines.append(f"| {step}{one['structure']} | {one['atoms']} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines) + "\n"


def kept() -> list[dict[str, Any]]:
    """The runs among the results."""
    return [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("gpu_*.json"))]


def write_table() -> None:
    """The table in README.md, from the results."""
    text = TABLE.sub(lambda _: table(kept()), README.read_text())
    with replacing(README) as temporary:
        temporary.write_text(text)


# ------------------------------------------------------------ the command


def options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--minutes", type=float, default=8.0, help="for everything (default: 8)")
    arguments.add_argument("--out", type=Path, help="an empty or new folder")
    arguments.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    arguments.add_argument(
        "--table", type=Path, metavar="DIR", help="keep a run, and write README.md's table"
    )
    arguments.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    found = arguments.parse_args()
    if (found.out is None) == (found.table is None):
        arguments.error("expected --out DIR to ask a card, or --table DIR to keep its answers")
    if not 0 < found.minutes < 1e4:
        arguments.error(f"--minutes: expected a number above 0, found {found.minutes:g}")
    if found.out and not found.part:
        check_device(arguments, "cuda")
        if found.out.exists() and (not found.out.is_dir() or any(found.out.iterdir())):
            arguments.error(f"{found.out}: expected an empty or new folder")
    return found


def main() -> int:
    found = options()
    if found.part:
        faulthandler.enable()
        faulthandler.dump_traceback_later(60 * found.minutes, exit=True)  # and says where it was
        answer(found.part, found.out)
        return 0
    if found.table:
        try:
            print(f"wrote {keep(found.table)}")
        except UserError as e:
            print(f"error: {e}", file=sys.stderr)
            return 2
        write_table()
        print(f"wrote {README}")
        return 0
    found.out.mkdir(parents=True, exist_ok=True)
    print(command_line())
    try:
        with answering(interrupt):
            ask_all(found.only, found.out, 60 * found.minutes)
    except KeyboardInterrupt:
        print(f"stopped; what was answered is in {found.out / ROWS}", file=sys.stderr)
        return 130
    rows = rows_of(found.out)
    failed = [row for row in rows if "failed" in row]
    print(f"\n{len(rows)} rows in {found.out / ROWS}; failed: {len(failed)}")
    for row in failed:
        print(f"  {summary(row)} [{log_of(row['part'])}]")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
