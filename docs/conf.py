"""Configuration of the documentation site, built by `make docs`."""

from avse.version import __version__

project = "avse"
author = copyright = "The avse authors"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints", "**.ipynb"]

html_theme = "furo"
html_title = f"avse {release}"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Pages with code cells are executed when the site is built; a cell that fails stops the build.
nb_execution_mode = "cache"
nb_execution_timeout = 180
nb_execution_raise_on_error = True
nb_merge_streams = True
