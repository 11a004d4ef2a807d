"""Mathematics converted to MathML while the site is built, so that pages need neither network nor JavaScript.

Browsers draw MathML themselves. A formula that cannot be converted whole is a warning of the build.
"""

import re
from typing import Any

from docutils import nodes
from latex2mathml import exceptions
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

FAULTS = tuple(each for each in vars(exceptions).values() if isinstance(each, type))
logger = logging.getLogger(__name__)


def mathml(tex: str, display: bool, node: nodes.Node) -> str:
    """The formula as MathML."""
    try:
        converted = convert(prepared(tex), display="block" if display else "inline")
    except FAULTS as error:
        logger.warning("formula %r: %s", tex, type(error).__name__, location=node)
        return nodes.Text(tex).astext()
    unknown = re.findall(r"\\[A-Za-z]+", converted)  # the converter passes on what it does not know
    if unknown:
        logger.warning("formula %r: unknown %s", tex, ", ".join(unknown), location=node)
    return str(converted)


def prepared(tex: str) -> str:
    """The formula in the words of the converter: its name of `aligned`, arg, and a space after functions."""
    tex = re.sub(r"\\arg(?![A-Za-z])", r"\\operatorname{arg}\\,", tex)
    tex = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{split}", tex)
    return re.sub(r"\\(log|exp)(?![\^_({A-Za-z])", r"\\\1\\,", tex)


def aligned(tex: str) -> str:
    """Several lines stand below each other, aligned at &."""
    return rf"\begin{{split}}{tex}\end{{split}}" if r"\\" in tex else tex


def visit_inline(translator: Any, node: nodes.math) -> None:
    """A formula in a line of text."""
    translator.body.append(f'<span class="math">{mathml(node.astext(), False, node)}</span>')
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
    translator.body.extend(mathml(part, True, node) for part in parts)
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None)
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
