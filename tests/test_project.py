"""What others rely on: public names and their arguments, one version, whom to cite, and pages that name real files."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import timm_asap

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "timm_asap/__init__.py").read_text(encoding="utf-8"), re.M)[1]

# Taking a name from here, or renaming it, breaks programs: see "Versions and deprecations" in CONTRIBUTING.md.
PUBLIC = {
    "timm_asap": """AsapPool1d AsapPool2d AsapPool3d AsapUpsample1d AsapUpsample2d AsapUpsample3d LowPass1d LowPass2d
        LowPass3d adapt asap_pool1d asap_pool2d asap_pool3d asap_upsample1d asap_upsample2d asap_upsample3d
        conversion_of convert heal load lowpass1d lowpass2d lowpass3d reference reparameterize restore save spectral
        watch zoo""",
    "timm_asap.conversion": """ConversionReport DownsamplingLayer Layout Operation conversion_of convert reparameterize
        restore save watch""",
    "timm_asap.zoo": """AsapOptions check_model_name create_model is_shipped is_twin load model_folder plain_name
        twin_names""",
    "timm_asap.spectral": "Boundary Window lowpass_matrix pool_matrix upsample_matrix window_weights",
    "timm_asap.reference": "ReleasedPool2d released_pool2d",
    "timm_asap.healing": """Fidelity HealReport HealStage RefitLayer batchnorm_layers heal measure_fidelity
        plain_copy""",
    "timm_asap.evaluation": """CORRUPTIONS EXTRA_CORRUPTIONS EvaluateConfig Record compare corrupt evaluate
        read_record""",
    "timm_asap.evaluation.aliasing": """MapAliasing SampledLayer LayerAliasing aliasing_table map_aliasing
        measure_aliasing measure_batch merge_aliasing sampled_layers""",
    "timm_asap.training": "TrainConfig TrainResult describe make_plan parse resume_command train",
    "timm_asap.hub": "Published check_card export_onnx load publish write_card",
}

# Arguments as programs pass them, by place and name, with their defaults; later ones may follow.
SIGNATURES = {
    "timm_asap.AsapPool2d": "channels=None, stride=2, window=None, boundary='circular'",
    "timm_asap.LowPass2d": "channels=None, stride=2, window=None, boundary='circular'",
    "timm_asap.asap_pool2d": "x, stride=2, window='asap', boundary='circular'",
    "timm_asap.lowpass2d": "x, stride=2, window='asap', boundary='circular'",
    "timm_asap.convert": "model, layout='preserve', window='asap', boundary='circular', stem='auto'",
    "timm_asap.heal": "model, images",
    "timm_asap.adapt": "model, images",
    "timm_asap.load": "name",
    "timm_asap.save": "model, folder",
    "timm_asap.restore": "model, folder",
    "timm_asap.reparameterize": "model, inplace=False",
    "timm_asap.spectral.lowpass_matrix": "n, stride=2, window='asap', boundary='circular'",
    "timm_asap.reference.released_pool2d": "x, variant='asap'",
    "timm_asap.evaluation.corrupt": "images, name, severity, table='imagenet', seed=0, indices=None",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_stay(module):
    found = importlib.import_module(module)
    assert sorted(found.__all__) == sorted(PUBLIC[module].split())
    for name in found.__all__:
        assert getattr(found, name) is not None, name


def test_every_public_object_says_what_it_is():
    silent = [
        f"{module}.{name}"
        for module in PUBLIC
        for name in importlib.import_module(module).__all__
        if callable(value := getattr(importlib.import_module(module), name)) and not inspect.getdoc(value)
    ]
    assert silent == []


@pytest.mark.parametrize("path", SIGNATURES)
def test_arguments_stay(path):
    module, _, name = path.rpartition(".")
    parameters = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters.values())
    for wanted, parameter in zip(SIGNATURES[path].split(", "), parameters, strict=False):
        word, equals, default = wanted.partition("=")
        assert parameter.name == word
        assert not equals or repr(parameter.default) == default, parameter
    assert len(parameters) >= SIGNATURES[path].count(",") + 1


def test_the_version_stands_in_one_place():
    assert timm_asap.__version__ == VERSION
    assert "version" not in PYPROJECT["project"]
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"] == {"path": "timm_asap/__init__.py"}


def test_citation_names_the_version_the_license_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == VERSION
    assert citation["license"] == PYPROJECT["project"]["license"]
    assert citation["authors"][0]["name"] in (ROOT / "LICENSE").read_text(encoding="utf-8")
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Grabinski", "Keuper", "Keuper"]
    from timm_asap.hub.cards.metadata import _ASAP

    assert paper["title"] in _ASAP.replace("{", "").replace("}", "")
    assert "arXiv:2307.09804" in _ASAP
    assert paper["identifiers"][0]["value"] == "arXiv:2307.09804"


def test_changelog_has_the_version_or_what_is_not_released():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == "Unreleased"
    tags = subprocess.run(["git", "tag"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert f"v{VERSION}" not in tags or VERSION in headings


def test_hooks_run_the_ruff_of_the_extra_dev():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    pins = {requirement for hook in hooks for requirement in hook.get("additional_dependencies", ())}
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format", "pyright"]
    assert pins == {line for line in PYPROJECT["project"]["optional-dependencies"]["dev"] if line.startswith("ruff")}


PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "model_cards/*.md", "benchmarks/results/*.md")
    for path in ROOT.glob(pattern)
)


def without_code(text):
    return re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.M | re.S)


def anchors_of(page):
    """Of its headings, as the repository's host and the layer make them, and of its own HTML."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8")))
    for link in (link for link in links if not re.match(r"https?://|mailto:", link)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_the_site_shows_every_page_of_the_docs():
    def pages(entry):
        if isinstance(entry, str):
            return {entry}
        return set().union(*map(pages, entry.values() if isinstance(entry, dict) else entry))

    shown = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    written = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    cards = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("model_cards/*.md")}
    assert written | cards <= shown
    assert all((ROOT / name).is_file() for name in shown - written)


def test_files_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:timm_asap|tests|tools|model_cards|\.ci)/[\w./]*)`", text)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []
