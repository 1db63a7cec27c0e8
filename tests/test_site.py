"""The docs site: built strictly, it loads nothing from elsewhere and describes every public name."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import timm_asap
from tests.test_project import PUBLIC

pytest.importorskip("mkdocs", reason="the docs extra installs it")
pytest.importorskip("mkdocstrings", reason="the docs extra installs it")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"', text)
        loaded += re.findall(r'<link\b[^>]*\brel="(?:stylesheet|preload|preconnect|icon)"[^>]*\bhref="([^"]+)"', text)
        loaded += re.findall(r'<link\b[^>]*\bhref="([^"]+)"[^>]*\brel="(?:stylesheet|preload|preconnect|icon)"', text)
        assert loaded
        assert [address for address in loaded if re.match(r"(?:https?:)?//", address)] == [], page


def test_every_public_name_is_in_the_reference(site):
    text = "".join(page.read_text(encoding="utf-8") for page in site.glob("reference/*/index.html"))
    described = {path.rpartition(".")[2] for path in re.findall(r'\bid="timm_asap\.([\w.]+)"', text)}
    names = {(module, name) for module in PUBLIC for name in PUBLIC[module].split()}
    modules = {(module, name) for module, name in names if inspect.ismodule(getattr(timm_asap, name, None))}
    assert len(modules) == 3
    assert {f"{module}.{name}" for module, name in names - modules if name not in described} == set()


def test_links_outside_docs_lead_to_pages_or_are_text(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="CONTRIBUTING/"' in home
    assert "CITATION.cff" in home
    assert not re.search(r'href="[^"]*CITATION', home)  # no page, and the repository has no address yet
    changelog = (site / "CHANGELOG" / "index.html").read_text(encoding="utf-8")
    assert 'href="../CONTRIBUTING/#versions-and-deprecations"' in changelog
    assert 'href="../install/"' in changelog
