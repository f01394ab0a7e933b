"""Configuration of the documentation, which `make docs` builds without network."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

project = PROJECT["name"]
author = PROJECT["authors"][0]["name"]
release = PROJECT["version"]
source_url = PROJECT["urls"]["Source"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "recsim_docs",
]
templates_path = ["_templates"]
suppress_warnings = [
    "myst.header",  # the tables of a benchmark bring headings of their own
    "ref.python",  # a class is described in its module and in the package that hands it on
]

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 3

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_custom_sections = [("Shapes", "params_style")]
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
