"""How the documentation is built: ``python -m sphinx -W --keep-going -b html docs OUT``.

Nothing is fetched from the network, and nothing is written into the checkout but
``docs/reference/generated`` and ``docs/gallery``, which git ignores.
"""

import os
import sys
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import hs_autoptycho  # noqa: E402

_here = Path(__file__).parent
sys.path.insert(0, str(_here / "_extensions"))

from picture_folder import PictureFolder  # noqa: E402
from public_names import own_members  # noqa: E402

project = "hs_autoptycho"
author = "The hs_autoptycho developers"
copyright = author
release = hs_autoptycho.__version__
version = release.split("+")[0]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "annotated_types",  # before numpydoc: it writes types into the docstrings
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "parameter_table",
    "upcoming_changes",
]
exclude_patterns = ["_build", "upcoming_changes", "Thumbs.db", ".DS_Store"]
templates_path = ["_templates"]
default_role = None
nitpicky = False

# --- reference ------------------------------------------------------------------------------------

autosummary_generate = True
autosummary_context = {"own_members": own_members()}
autodoc_typehints = "none"  # they stand beside the parameters
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
numpydoc_class_members_toctree = False

# --- gallery --------------------------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "/",  # all are run, and not only those that are called plot_...
    "reset_argv": PictureFolder(),
    "abort_on_example_error": False,
    "capture_repr": (),
    "matplotlib_animations": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    # HS_AUTOPTYCHO_GALLERY=0 leaves the pictures out, for a quick look at the texts
    "plot_gallery": os.environ.get("HS_AUTOPTYCHO_GALLERY", "1") != "0",
    "show_memory": False,
    "show_signature": False,
    "within_subsection_order": "FileNameSortKey",
}
# what other packages deprecate is none of the reader's business
warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", category=FutureWarning)

# --- pages ----------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"hs_autoptycho {version}"
html_static_path = ["_static"]
html_sidebars = {"index": [], "benchmarks": []}
html_css_files = ["custom.css"]
html_theme_options = {
    "show_toc_level": 2,
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}
html_show_sourcelink = False
