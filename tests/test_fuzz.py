"""The fuzzer sees what it looks for: commands that misbehave in each way, and one that does not."""

import json
import subprocess
import sys
from pathlib import Path

# What stands for `main`, in the child; a model's `info` -> what the fuzzer says of it.
PLANTED = {
    "raise KeyError('x')": "traceback: KeyError",
    "os.kill(os.getpid(), signal.SIGSEGV)": "signal: SIGSEGV",
    "time.sleep(60)": "hang",
    "return 1": "status 1",
    "return 130": "status 130",
    "return 2": "not one line",
    "print('error: first line\\nerror: second line', file=sys.stderr); return 2": "not one line",
    "print('error: internal error (KeyError)', file=sys.stderr); return 2": "error: internal error",
    "print('RuntimeWarning: overflow', file=sys.stderr); return 0": "words on stderr",
    "print('\\x1b[31mred'); return 0": "an escape sequence",
    "print('energy  nan eV'); return 0": "not finite",
    "print('energy  1.5 eV'); return 0": "accepted: other numbers: stdout",
    "open('.new', 'w').close(); return 0": "a stray file",
    "open('new.json', 'w').close(); return 0": "an output broken: new.json",
    "open('new.h5', 'w'); print('error: half of it', file=sys.stderr); return 2": "left behind: new.h5",
    "open('one.extxyz', 'w').close(); return 0": "an input changed: one.extxyz",
    "print('error: damaged, as it should be', file=sys.stderr); return 2": "",
}
CODE = """
import json, os, signal, sys, time, tempfile
from pathlib import Path
import fuzz

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
fuzz.SECONDS, fuzz.LONG = 2, 1
work = Path(tempfile.mkdtemp())
(work / "sound").mkdir()
for name in ("model.h5", "data.h5", "one.extxyz"):
    (work / "sound" / name).write_text("a sound file")
for k, body in enumerate(json.loads(sys.argv[1])):
    scope = dict(os=os, signal=signal, sys=sys, time=time)
    exec(f"def main(arguments):\\n    {body}", scope)
    fuzz.main = scope["main"]
    folder = work / str(k)
    folder.mkdir()
    case = fuzz.Case(["info", "model.h5"], "model.h5", own=True, legal=None)
    fuzz.take(folder, case, "model.h5", "data.h5", "one.extxyz")
    before = fuzz.contents(folder)
    outcome = fuzz.execute(case.arguments, folder, work / "logs")
    print("; ".join(fuzz.judge(case, outcome, before, folder, {"stdout": ""})))
"""


def test_what_the_fuzzer_sees():
    command = [sys.executable, "-c", CODE, json.dumps(list(PLANTED))]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert len(found) == len(PLANTED)
    for words, (body, expected) in zip(found, PLANTED.items(), strict=True):
        assert words.startswith(expected) and bool(words) == bool(expected), f"{body}: {words}"
