"""Settings of the site: `make docs` builds it into docs/_build, to be read without a network."""

import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

project = "eqpot"
author = "the authors of eqpot"
html_title = "eqpot"

# `eqpot` is imported from where this file lies, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
exclude_patterns = ["_build"]

html_theme = "furo"
html_math_renderer = "mathml"
html_show_copyright = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["course.css"]
pygments_style = "friendly"
highlight_language = "text"  # of blocks that name none: they are commands and what is printed


PRIMED = re.compile(r"<msup>(<mi>[^<]*</mi>)<mi>(&#x0203[23];)</mi></msup>")


def _mathml(latex: str, display: str) -> str:
    """The font's primes stand high already: as superscripts they would be specks."""
    return PRIMED.sub(r'<mrow>\1<mo lspace="0" rspace="0">\2</mo></mrow>', convert(latex, display=display))


def _inline(writer, node: nodes.math) -> None:
    writer.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(writer, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{_mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


OUTSIDE = re.compile(r"\[([^]]+)\]\((?:\.\./)+((?:bench|data_tools|README|CITATION)[^)#]*)[^)]*\)")


def _name_what_is_outside(app: Sphinx, page: str, source: list[str]) -> None:
    """Links to files of the checkout that are no pages of the site: their names."""
    source[0] = OUTSIDE.sub(lambda m: f"`{m[2]}`" if m[1] == m[2] else f"{m[1]} (`{m[2]}`)", source[0])


def _a_paragraph_each(
    app: Sphinx, what: str, name: str, thing: object, how: object, lines: list[str]
) -> None:
    """For the lines of a docstring that tell of a parameter, `name: ...`."""
    lines[:] = "\n".join(re.sub(r"^([a-z_]\w*): ", r"\n**\1**: ", line) for line in lines).split("\n")


def setup(app: Sphinx) -> None:
    """Formulas become MathML, which browsers draw themselves, with the font in static/: no script."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("source-read", _name_what_is_outside)
    app.connect("autodoc-process-docstring", _a_paragraph_each)
