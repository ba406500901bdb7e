"""Sphinx settings of the documentation; ``make docs`` builds it into ``docs/_build/html``, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))

project = "gradlab"
author = copyright = "The gradlab authors"
html_title = "gradlab"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "mathml",
    "reference",
    "tie",
]
exclude_patterns = ["_build", "_ext", "**.ipynb_checkpoints"]

# Pages are MyST Markdown; notebooks are shown as they were saved, never run here.
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # its default is a CDN: sliders show as what stands beside them
nb_mime_priority_overrides = [("*", "application/vnd.jupyter.widget-view+json", None)]
numfig = False
math_number_all = False

# The reference, from docstrings.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True

# Types of other packages, whose inventories are behind a network; aliases, which are no classes; private ones.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!gradlab)\w+\..*"),
    (r"py:class", r"[^.]+"),
    (r"py:class", r"gradlab\.(.*\.)?_.*"),
]

suppress_warnings = ["ref.python"]  # a type of which two modules have one; the first is linked

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["gradlab.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"
