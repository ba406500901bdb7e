"""Mathematics as MathML, which browsers show by themselves: no script, no font and no network is needed.

LaTeX is converted by ``latex2mathml`` while the page is written; what it does not know is a warning, and so an error.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)
UPRIGHT = re.compile(r"\\mathrm\{(\w+)\}")  # comes out in italics unless it is text
NAME = re.compile(r"<mo>([A-Za-z]{2,})</mo>")  # Var and the like are no operators with spaces around
FUNCTION = re.compile(r"(?<!<msup>)(?<!<msub>)(?<!<munder>)<mi>(log|exp|ln)</mi>(<mo stretchy=\"false\">&#x00028;)?")
THIN = '<mspace width="0.167em" />'
UNKNOWN = re.compile(r"<m[io]>(?:\\[A-Za-z]+|&)</m[io]>")  # a command that went through as text


def mathml(latex: str, display: str, where: nodes.Node | None = None) -> str:
    """The ``<math>`` element of a LaTeX formula; ``display``: ``"inline"`` or ``"block"``."""
    try:
        found = convert(UPRIGHT.sub(r"\\text{\1}", latex).replace("{aligned}", "{split}"), display=display)
    except Exception as error:
        logger.warning("LaTeX that does not convert (%s): %s", type(error).__name__, latex, location=where)
        return ""
    for command in UNKNOWN.findall(found):
        logger.warning("LaTeX that does not convert: %s in %s", command, latex, location=where)
    found = NAME.sub(r"<mi>\1</mi>", found)
    return FUNCTION.sub(lambda m: f"{THIN}<mi>{m[1]}</mi>{m[2] or THIN}", found)


def visit_inline(self: Any, node: nodes.math) -> None:
    """A formula in a line."""
    self.body.append(mathml(node.astext(), "inline", node))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """A formula on a line of its own, with its number."""
    self.body.append(self.starttag(node, "div", CLASS="math-block"))
    self.body.append(f'<div class="formula">{mathml(node.astext(), "block", node)}</div>')
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Permalink to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds the renderer, for ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
