"""Settings of the course's site: `make docs` builds it into docs/_build, to be read without a network."""

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


def _inline(writer, node: nodes.math) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(writer, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app) -> None:
    """Formulas become MathML, which browsers draw themselves, with the font in static/: no script."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
