"""The book as a site: _quarto.yml and the notebooks become pages for Sphinx, without Quarto and without a network.

    python -m book SITE      (with tools/ on the path; `make docs` does it)

contents    _quarto.yml: parts and chapters
markup      Quarto's Markdown becomes MyST's
notebooks   cell options become captions, labels and tags
modules     names, signatures and docstrings of the package, read without importing it
reference   pages of the API
pages       parts, index of equations, index of names
names       what a name in code stands for
extension   numbers of chapters, links of names, buttons: a Sphinx extension
links       what a built site links to: files, anchors, nothing from elsewhere
"""
