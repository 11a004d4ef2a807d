"""Configuration of the documentation site, built by `make docs`."""

import sys
from pathlib import Path

from avse.version import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "avse"
author = copyright = "The avse authors"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "plain_docstrings",
    "rendered_math",
    "repository_links",
    "scrolling_regions",
]
exclude_patterns = ["_build", "_ext", "_static", "_templates", "**.ipynb_checkpoints", "**.ipynb"]

# Where the repository can be browsed; empty as long as that is nowhere. Links to its files depend on it.
repository_url = ""

html_theme = "furo"
html_title = f"avse {release}"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 4

# Pages with code cells are executed when the site is built; a cell that fails stops the build.
nb_execution_mode = "cache"
nb_execution_timeout = 180
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars, and what dependencies announce on import

# The API reference: public names with docstrings, types beside the descriptions of the arguments.
autodoc_default_options = {"special-members": "__call__"}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
toc_object_entries = False  # hundreds of names would stand in the navigation of every page
