"""The demo's page in a real browser without a screen, served as `timm-asap demo` serves it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.support.demo_models import save_digits_twin
from tests.support.demo_server import DEMO, free_port, serving
from timm_asap.demo import open_pair, predict
from timm_asap.demo.predictions import write_examples

pytest.importorskip("gradio", reason="the demo extra installs it")
playwright = pytest.importorskip("playwright.sync_api", reason="a browser test: pip install playwright")

pytestmark = pytest.mark.slow  # servers take seconds to start, on two cores the whole takes half a minute

_WAIT_MS = 30_000


@pytest.fixture(scope="module")
def page():
    """A page of Debian's Chromium, or of the one that `playwright install chromium` brings."""
    own = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as driver:
        path = own or driver.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no browser: apt-get install chromium, or playwright install chromium")
        # the sandbox needs a user other than root, and rights that containers lack
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(_WAIT_MS)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_digits_twin(tmp_path_factory.mktemp("demo_page") / "digits_run")


@pytest.fixture(scope="module")
def url(run):
    port = free_port()
    words = [*DEMO, str(run), "--port", str(port)]
    with serving(words, r"resnet20_lowres_asap \(digits_run\) beside .*unswapped: (\S+) \(Ctrl-C ends it\)") as started:
        assert started[1] == f"http://127.0.0.1:{port}/"
        yield started[1]


def wait_for_answer(page, answer):
    """Until the page shows this answer, and no other."""
    page.wait_for_function(
        """([plain, twin]) => [["#plain", plain], ["#twin", twin]].every(([place, wanted]) => {
            const shown = document.querySelector(place)?.innerText.replace(/\\s+/g, " ") ?? "";
            return wanted.every(part => shown.includes(part));
        })""",
        arg=[_shown(answer.plain), _shown(answer.twin)],
    )
    verdict = answer.verdict.replace("**", "")
    playwright.expect(page.locator("#verdict")).to_have_text(verdict, timeout=_WAIT_MS)


def _shown(probabilities):
    # the page rounds halves up, and Python to even: a percent that is near one is not looked at
    rows = [(name, 100 * p) for name, p in probabilities.items()]
    return [name if abs(p % 1 - 0.5) < 0.01 else f"{name} {int(p + 0.5)}%" for name, p in rows]


def test_a_visit(page, url, run, tmp_path):
    pair = open_pair(str(run))
    digits, _ = write_examples(pair, tmp_path)
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)

    page.goto(url)  # the first example is answered at once
    wait_for_answer(page, predict(pair, digits[0]))
    playwright.expect(page.get_by_text("Both networks have the same weights")).to_be_visible()
    aliasing = page.locator("#aliasing")
    playwright.expect(aliasing).to_contain_text("less than 0.0001 % of what is sampled is aliasing")
    figure = page.locator("#spectra img")
    assert figure.evaluate("image => image.complete && image.naturalWidth") > 700
    clean_figure = figure.get_attribute("src")

    page.locator("#corruption input").click()
    page.get_by_role("option", name="shot noise").click()
    wait_for_answer(page, predict(pair, digits[0], "shot_noise", 3))
    slider = page.locator("#severity input[type=range]")
    slider.focus()
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    wait_for_answer(page, predict(pair, digits[0], "shot_noise", 5))
    assert figure.get_attribute("src") != clean_figure

    page.locator("button.gallery-item").nth(7).click()
    wait_for_answer(page, predict(pair, digits[7], "shot_noise", 5))

    Image.effect_noise((300, 200), 90).convert("RGBA").save(tmp_path / "upload.png")
    page.get_by_role("button", name="Remove Image").click()
    playwright.expect(page.locator("#verdict")).to_have_text("Choose a picture.")
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "upload.png")
    wait_for_answer(page, predict(pair, tmp_path / "upload.png", "shot_noise", 5))

    assert not complaints
    assert {address.split("/")[2] for address in asked if address.startswith("http")} == {url.split("/")[2]}


def test_a_port_in_use_is_one_line(url, run):
    words = [*DEMO, str(run), "--port", url.rstrip("/").rpartition(":")[2]]
    ended = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert ended.returncode == 2
    assert re.fullmatch("timm-asap: error: the page cannot be served: .*\n", ended.stderr), ended.stderr
