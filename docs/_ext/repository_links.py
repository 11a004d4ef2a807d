"""Links from the pages to files of the repository that are no pages, such as examples.

They are written as relative links, which work where the repository is browsed. The site does not hold those
files: with `repository_url` in conf.py the links lead to the files there, without it the path is shown.
"""

from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


class RepositoryLinks(SphinxTransform):
    """Replaces links to files and folders outside of the documentation, before they are copied or resolved.

    In a page that includes a file from outside, links are relative to that file.
    """

    default_priority = 200

    def apply(self, **kwargs: Any) -> None:
        """Replace them in the current page."""
        pages = Path(self.env.srcdir)
        links = chain(
            self.document.findall(addnodes.pending_xref), self.document.findall(addnodes.download_reference)
        )
        for node in [link for link in links if link.get("reftype") == "myst"]:
            source = Path(node.source or self.document["source"]).resolve()
            if source.is_relative_to(pages) and node.get("refdomain") == "doc":
                continue
            path, _, anchor = unquote(node["reftarget"]).partition("#")
            file = (source.parent / path).resolve()
            if not path or not file.exists() or not file.is_relative_to(pages.parent):
                continue
            page = self.env.path2doc(file) if file.is_relative_to(pages) else None
            if not file.is_relative_to(pages):
                node.replace_self(self.replacement(node, file.relative_to(pages.parent).as_posix(), anchor))
            elif page and not source.is_relative_to(pages):
                node["refdomain"], node["reftarget"], node["reftargetid"] = "doc", page, anchor or None

    def replacement(self, node: nodes.Element, path: str, anchor: str) -> list[nodes.Node]:
        """The link to the file in the repository, or its text with the path."""
        if self.config.repository_url:
            url = f"{self.config.repository_url}/blob/main/{path}" + (f"#{anchor}" if anchor else "")
            return [nodes.reference("", "", *node.children, refuri=url)]
        literal = nodes.literal(path, path)
        if not node["refexplicit"] or node.astext() in (path, Path(path).name):
            return [literal]
        return [*node.children, nodes.Text(" ("), literal, nodes.Text(")")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform and its setting."""
    app.add_config_value("repository_url", "", "env", frozenset({str}))
    app.add_transform(RepositoryLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
