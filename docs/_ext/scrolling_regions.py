"""Code and tables that are wider than the page scroll, with the keyboard as well: they can be focused."""

import re
from typing import Any

from sphinx.application import Sphinx

REGION = re.compile(r'<(pre|div class="table-wrapper[^"]*"|div class="output text_html")(?=[ >])')


def focusable(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Put them in the order of the tab key."""
    if "body" in context:
        context["body"] = REGION.sub(r'<\1 tabindex="0"', context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the change of the finished pages."""
    app.connect("html-page-context", focusable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
