"""Settings of the course's site: `make docs` builds it into docs/_build, to be read without a network."""

import re

from docutils import nodes
from latex2mathml.converter import convert

project = "eqpot"
author = "the authors of eqpot"
html_title = "eqpot: the course"

extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_math_renderer = "mathml"
html_show_copyright = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["course.css"]
pygments_style = "friendly"


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


def setup(app) -> None:
    """Formulas become MathML, which browsers draw themselves, with the font in static/: no script."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
