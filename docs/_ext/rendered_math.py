"""Mathematics typeset by KaTeX while the site is built, so that pages need neither network nor JavaScript.

Formulas become HTML and MathML. One that KaTeX cannot read is a warning of the build.
"""

from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

KATEX = Path(__file__).parents[1] / "_static" / "katex"
logger = logging.getLogger(__name__)


@cache
def engine() -> MiniRacer:
    """JavaScript with KaTeX."""
    context = MiniRacer()
    context.eval((KATEX / "katex.min.js").read_text(encoding="utf-8"))
    return context


def html(tex: str, display: bool, node: nodes.Node) -> str:
    """The formula as HTML."""
    try:
        return str(engine().call("katex.renderToString", tex, {"displayMode": display}))
    except JSEvalException as error:
        message = str(error).partition("KaTeX parse error: ")[2].partition("\n")[0]
        logger.warning("formula %r: %s", tex, message or error, location=node)
        return nodes.Text(tex).astext()


def aligned(tex: str) -> str:
    """Several lines stand below each other, aligned at &."""
    return rf"\begin{{split}}{tex}\end{{split}}" if r"\\" in tex else tex


def visit_inline(translator: Any, node: nodes.math) -> None:
    """A formula in a line of text."""
    translator.body.append(f'<span class="math">{html(node.astext(), False, node)}</span>')
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """A formula of its own, which scrolls where it is wider than the page; it can have a number."""
    translator.body.append(translator.starttag(node, "div", CLASS="math", tabindex="0"))
    if node.get("number"):
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    tex = node.astext()
    parts = [tex] if node.get("nowrap") else [aligned(part) for part in tex.split("\n\n") if part.strip()]
    translator.body.extend(html(part, True, node) for part in parts)
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer and the style sheet of KaTeX."""
    app.add_html_math_renderer(
        "katex", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None)
    )
    app.add_css_file("katex/katex.min.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
