"""The pages: their code runs as it is printed, their quotes are the project's source, their pictures exist,
their site builds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from command_lines import blocks, check_command, commands_in

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
QUOTES = [
    pytest.param(page, *match.groups(), id=f"{page.stem}-{k}")
    for page in PAGES
    for k, match in enumerate(
        re.finditer(r"^```\{literalinclude\} (\S+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    )
]
over_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS))[:-3])


def python_blocks(text: str) -> list[tuple[int, str]]:
    """(line on which it starts, from 1; code) of each block of Python."""
    found = re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


def run(page: Path, text: str) -> None:
    """The page's blocks, one after the other, as one module; an error names the page and its line."""
    module = ModuleType(f"docs_{page.stem}")
    sys.modules[module.__name__] = module  # where Numba looks for the module of a kernel that it has on disk
    try:
        for line, code in python_blocks(text):
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), vars(module))
    finally:
        del sys.modules[module.__name__]


@over_pages
def test_code_runs(page: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(DOCS)
    run(page, page.read_text())


def test_every_lesson_has_code_and_assertions():
    lessons = [page for page in PAGES if page.stem[0].isdigit()]
    assert [page.stem[:2] for page in lessons] == [f"{k:02}" for k in range(1, 12)]
    for page in lessons:
        code = "".join(code for _, code in python_blocks(page.read_text()))
        assert code.count("assert ") >= 3 or "run_checks" in code, page.name
        assert "{literalinclude}" in page.read_text() or page.stem.startswith("10"), page.name


def test_an_assertion_that_fails_is_found():
    with pytest.raises(AssertionError):
        run(DOCS / "page.md", "Text.\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")


# ------------------------------------------------------------ quotes


def source_of(path: Path, name: str) -> str:
    """What defines `name` (`function` or `Class.method`) in a file."""
    body = ast.parse(path.read_text()).body
    for part in name.split("."):
        (node,) = [n for n in body if getattr(n, "name", None) == part]
        body = getattr(node, "body", [])
    return ast.get_source_segment(path.read_text(), node)


@pytest.mark.parametrize(("page", "path", "options"), QUOTES)
def test_quotes_resolve(page: Path, path: str, options: str):
    """A quote names a function of the project's own kernels or modules, and marks that stand in it."""
    given = dict(re.findall(r"^:([\w-]+): *(.*)$", options, re.MULTILINE))
    assert set(given) <= {"pyobject", "start-at", "end-before", "dedent"}
    source = (page.parent / path).resolve()
    assert {DOCS.parent / "kernels", DOCS.parent / "eqpot", DOCS} & set(source.parents)
    text = source_of(source, given["pyobject"])
    if "start-at" in given:
        assert given["start-at"] in text
        text = text[text.index(given["start-at"]) + 1 :]
    assert given.get("end-before", "") in text


def test_kernels_are_quoted_not_copied():
    """No three lines in a row of a page's code are three lines of a kernel."""

    def threes(text: str) -> set[tuple[str, ...]]:
        lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 1]
        return set(zip(lines, lines[1:], lines[2:], strict=False))

    kernels = set().union(*(threes(path.read_text()) for path in (DOCS.parent / "kernels").glob("*.py")))
    for page in PAGES:
        for line, code in python_blocks(page.read_text()):
            copied = {t for t in threes(code) & kernels if not all("import" in part for part in t)}
            assert not copied, f"{page.name}, block at line {line}: {copied}"


# ------------------------------------------------------------ pictures, commands, links, the site


def test_pictures(monkeypatch: pytest.MonkeyPatch):
    """Every picture that is shown exists, figures.py knows how to draw it, and none is left over."""
    monkeypatch.syspath_prepend(DOCS)
    from figures import PICTURES

    texts = [*PAGES, DOCS.parent / "README.md"]
    shown = {
        (page.parent / name).resolve()
        for page in texts
        for name in re.findall(r"!\[[^]]+\]\((\S+)\)", page.read_text())
    }
    drawn = {DOCS / "pictures" / f"{name}.png" for name in PICTURES}
    assert {picture for picture in shown if picture.parent == DOCS / "pictures"} == drawn
    assert drawn == set((DOCS / "pictures").iterdir())


@over_pages
def test_commands_and_links(page: Path):
    text = page.read_text()
    for line in commands_in("".join(blocks(text))):
        check_command(line)
    for link in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


def test_the_map_names_what_there_is():
    named = set(
        re.findall(r"`((?:eqpot|kernels|data_tools|tests)/[\w/.]*)`", (DOCS / "layout.md").read_text())
    )
    assert len(named) > 40 and not [path for path in named if not (DOCS.parent / path).exists()]


@pytest.mark.slow
def test_site_builds(tmp_path: Path):
    """Every quote, link, picture and formula without a warning; and no page needs the network."""
    for name in ("sphinx", "sphinx_click", "myst_parser", "furo", "latex2mathml"):
        pytest.importorskip(name, reason="pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run([*command, DOCS, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in PAGES:
        html = (tmp_path / page.relative_to(DOCS).with_suffix(".html")).read_text()
        assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]+\.(?:js|css|woff2?|png)', html)
        assert html.count("<math") >= page.read_text().count("$$") // 2
