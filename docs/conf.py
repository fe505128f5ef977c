# SPDX-License-Identifier: Apache-2.0
"""Sphinx settings of the documentation site; ``tools/build_docs.sh`` builds it.

The source folder is the root of the repository: relative links are the same on the site and in a code browser.
"""

project = "sparse-deploy"
copyright = "the authors of sparse-deploy; Apache-2.0"  # noqa: A001 (Sphinx reads this name)
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "benchmarks/RESULTS.md",
    "studies/README.md",
]

extensions = ["myst_parser"]
myst_heading_anchors = 4  # heading anchors in GitHub's form; a link to a missing anchor is a warning

html_theme = "furo"
html_title = "sparse-deploy"
html_copy_source = False
html_show_sphinx = False
