"""What others wrote, names of files and groups for instance, is shown and never obeyed."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from toy import MODEL, toy_dataset

from eqpot.cli import main
from eqpot.potential import Potential
from eqpot.printing import PlainTable, show
from eqpot.structures.data import write_dataset
from eqpot.words import plain, say

FOREIGN = [
    ("q[/b]", "q[/b]"),
    ("[bold]x[/bold] :bomb:", "[bold]x[/bold] :bomb:"),
    ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
    ("two\nlines\r\t", r"two\nlines\r\t"),
    ("\x9b2J", r"\x9b2J"),
    ("gnp\u202e.exe\u2066\u200b\ufeff", r"gnp\u202e.exe\u2066\u200b\ufeff"),
    ("\udcff", r"\udcff"),
    ("Wässriges Kupfer 水 Å³", "Wässriges Kupfer 水 Å³"),
]


@pytest.mark.parametrize(("text", "expected"), FOREIGN)
def test_plain(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(("text", "expected"), FOREIGN)
def test_lines_and_tables(text, expected, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    say(text, "next")
    assert capsys.readouterr().out == f"{expected}\nnext\n"
    table = PlainTable(text, "of two lines")
    table.add_column("")
    table.add_row(text)
    show(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].rstrip() == expected and lines[1].rstrip() == "of two lines"
    assert any(line.strip() == expected for line in lines[2:])
    out = StringIO()  # whatever prints it
    Console(file=out, force_terminal=True, width=100, color_system=None).print(table)
    assert out.getvalue().count(expected) == 2


NASTY = "q[/b]\x1b[31m\u202e\n:bomb:"
SHOWN = r"q[/b]\x1b[31m\u202e\n:bomb:"


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    """A model and a data set in a folder, groups and note with names of ill will; commands print wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / NASTY).mkdir(parents=True)  # a folder in a folder
    data = toy_dataset()
    data.group = np.array([f"{name}{NASTY}" for name in data.group], dtype=object)
    write_dataset(f"{NASTY}/toy.h5", data)
    model = Potential.create(["H", "O"], **MODEL)
    model.provenance = {"note": NASTY, "command": NASTY, "closest": {"H-H": 1.0}}
    model.save(f"{NASTY}/model.h5")
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "eval MODEL DATA --json DIR/e.json --plots DIR/plots",
        "info MODEL",
        "inspect MODEL DATA --text -o DIR/report.html",
        "explain MODEL DATA",
        "relax MODEL DATA --steps 2 -o DIR/r.xyz",
        "bench MODEL DATA --threads 1 --seconds 0 --json DIR/b.json",
        "check MODEL DATA",
        "md MODEL DATA --length 2 --temperature 1 -o DIR/md",
        "fit DATA -o DIR/run --max-epochs 1 --n-valid 3 --set model.features=4 --set model.blocks=2",
        "fit --resume -o DIR/none",
        "data info DATA",
        "data split DATA -o DIR/part",
        "data convert DATA DIR/new.h5",
        "data convert DIR/none.xyz DIR/new.h5",
        "analyze rdf DATA -o DIR/rdf",
        "analyze adf DATA --triple H-O-H --cutoff 3 -o DIR/adf",
        "analyze msd DATA --frame-time 1 --blocks 1 -o DIR/msd",
        "eval DIR/none.h5 DATA",
        "fit DIR/none.h5",
        "DIR",
        "fit DATA --config DIR/none.toml",
        "fit DATA --set DIR=1",
        "fit DATA --set model.DIR=1",
        "fit DATA --DIR",
    ],
)
def test_no_command_obeys_a_name(line, at_work, capsys, monkeypatch):
    from eqpot.dynamics import check

    monkeypatch.setattr(check, "STEPS", 8)
    words = {"DIR": NASTY, "MODEL": f"{NASTY}/model.h5", "DATA": f"{NASTY}/toy.h5"}
    arguments = line.split()
    for word, meaning in words.items():
        arguments = [argument.replace(word, meaning) for argument in arguments]
    main(arguments)
    out, err = capsys.readouterr()
    assert SHOWN in out + err or SHOWN.replace(r"\n", " ") in err
    assert not {"\x1b", "\u202e"} & set(out + err)
    told = [line for line in err.splitlines() if not line.startswith("compiling kernels")]
    assert "internal error" not in err and len(told) <= 1


def test_no_number_is_shortened(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    table = PlainTable()
    table.add_column("")
    for heading in ("one", "another", "a third"):
        table.add_column(heading, justify="right")
    table.add_row("a/long/path/" * 4, "123.456789012", "-0.0001234567", "9" * 20)
    show(table)
    out = capsys.readouterr().out
    assert all(number in out for number in ("123.456789012", "-0.0001234567", "9" * 20)) and "…" not in out
    words = "".join(line.split()[0] for line in out.splitlines() if "a/l" in line or "/path" in line)
    assert words == "a/long/path/" * 4  # folded
