"""Settings of Sphinx for the book; what is particular to it comes from book.json, which the converter writes."""

import importlib.util
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FACTS = json.loads((HERE / "book.json").read_text(encoding="utf-8"))
sys.path.insert(0, FACTS["tools"])
MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"

project, author, release = FACTS["title"], FACTS["author"], FACTS["version"]
project_copyright = FACTS["copyright"]
extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinxcontrib.bibtex", "sphinx_copybutton", "book.extension"]
root_doc, exclude_patterns = "index", ["conf.py", "static"]
nitpicky, language = True, "en"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors, myst_dmath_double_inline = 3, True
nb_execution_mode, nb_render_markdown_format, nb_number_source_lines = "off", "myst", False
nb_merge_streams, nb_execution_show_tb = True, False
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]

toc_object_entries_show_parents, python_display_short_literal_types = "hide", True
numfig, math_numfig, numfig_secnum_depth = True, True, 2
numfig_format = {"figure": "Figure %s", "table": "Table %s"}
math_eqref_format = "Equation {number}"
bibtex_bibfiles, bibtex_default_style, bibtex_reference_style = FACTS["bibliography"], "book", "author_year"
copybutton_selector = "div.cell_input div.highlight pre, div.highlight-python pre, div.highlight-sh pre"
mathjax_path, mathjax_options = "mathjax/tex-chtml-full.js", {"defer": "defer"}
mathjax3_config = {"options": {"enableMenu": False}}

html_theme, html_title, html_short_title = "sphinx_book_theme", FACTS["title"], "nsf_nb"
html_static_path, html_css_files, html_js_files = ["static"], ["book.css"], ["book.js"]
html_extra_path, html_copy_source, html_show_sourcelink = ["extra"], False, False
html_secnumber_suffix, html_last_updated_fmt, html_show_sphinx = "\u2002", None, False
html_favicon = "static/favicon.svg"
html_theme_options = {
    "repository_url": FACTS["address"], "use_download_button": False, "use_fullscreen_button": False,
    "use_repository_button": True, "show_toc_level": 2, "show_navbar_depth": 1, "max_navbar_depth": 3,
    "home_page_in_toc": False, "navigation_with_keys": False, "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark", "logo": {"text": FACTS["title"]},
    "navbar_start": [], "navbar_center": [], "navbar_end": [], "navbar_persistent": [],
    "footer_content_items": ["copyright.html"],
}
html_context = {"default_mode": "auto"}
