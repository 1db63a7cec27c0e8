"""Hooks of mkdocs.yml: pages that lie outside docs/, and links as the repository's host resolves them.

A page links another file of the repository by its relative path, as the host wants it. On the site such a link leads to
that file's page, to the repository (`repo_url`) where it has none, and is plain text while there is no address.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

#: Files outside docs/ that the site shows; README.md is its first page.
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "model_cards/*.*", "benchmarks/results/heal.md")

_LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<path>[^()\s:#]+)(?P<anchor>#[^()\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of `OUTSIDE`, each at its path in the repository."""
    for path in (path for pattern in OUTSIDE for path in sorted(ROOT.glob(pattern))):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links of the site."""
    outside = page.file.generated_by is not None
    folder = posixpath.dirname(page.file.src_uri if outside else f"docs/{page.file.src_uri}")

    def on_site(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match["path"]))
        uri = path.removeprefix("docs/")
        if files.get_file_from_path(uri):
            uri = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
            return f"{match['text']}({uri}{match['anchor'] or ''})"
        if not (ROOT / path).exists():
            return match[0]  # for mkdocs to complain about
        if config.repo_url:
            return f"{match['text']}({config.repo_url.rstrip('/')}/blob/HEAD/{path})"
        return match["text"].strip("[]")

    return _LINK.sub(on_site, markdown)
