"""The playground in a browser: Debian's chromium and chromium-driver, by selenium. RERANK_SCREENSHOTS=FOLDER keeps pictures."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if BROWSER is None or DRIVER is None:
    pytest.skip("no chromium and chromedriver", allow_module_level=True)

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402
from words_scorer import Words  # noqa: E402

import rerank_engine as rr  # noqa: E402
from benchmarks.live_server import served  # noqa: E402
from rerank_engine.errors import MissingDependency  # noqa: E402
from rerank_engine.serve import create_app  # noqa: E402

TEXTS = ["black coffee", "green tea is good for health", "tea"]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tempfile.mkdtemp(prefix="rerank-page-")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1000", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield made
    made.quit()
    shutil.rmtree(profile, ignore_errors=True)


def opened(browser, url):
    browser.get_log("browser")  # what the page before left
    browser.get(url)
    WebDriverWait(browser, 10).until(lambda b: "…" not in b.find_element(By.ID, "served").text)


def asked(browser, query, documents=None):
    """Fills in and sends by the keyboard alone."""
    if documents is not None:
        area = browser.find_element(By.ID, "documents")
        area.clear()
        area.send_keys("\n".join(documents))
    field = browser.find_element(By.ID, "query")
    field.clear()
    field.send_keys(query, Keys.ENTER)
    WebDriverWait(browser, 20).until(
        lambda b: "Ranking" not in b.find_element(By.ID, "status").text and b.find_element(By.ID, "status").text
    )
    return browser.find_element(By.ID, "status").text


def rows(browser):
    return [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in browser.find_elements(By.CSS_SELECTOR, "#rows tr")]


def pictured(browser, name):
    if folder := os.environ.get("RERANK_SCREENSHOTS"):
        browser.set_window_size(1100, browser.execute_script("return document.documentElement.scrollHeight") + 140)
        browser.save_screenshot(str(Path(folder) / name))


def errors(browser):
    return [line for line in browser.get_log("browser") if line["level"] == "SEVERE" and "favicon" not in line["message"]]


def test_documents_are_ranked_and_what_moved_is_said(browser):
    with served(create_app(Words())) as url:
        opened(browser, url)
        assert "words" in browser.find_element(By.ID, "served").text
        assert asked(browser, "green tea health", TEXTS) == "3 documents ranked."
        found = rows(browser)
        assert [row[0] for row in found] == ["1", "2", "3"] and [row[4] for row in found] == [TEXTS[1], TEXTS[2], TEXTS[0]]
        assert [row[2] for row in found] == ["▲ 1", "▲ 1", "▼ 2"]
        assert browser.find_element(By.CSS_SELECTOR, "#rows td.down").get_attribute("aria-label") == "down by 2"
        assert {"tokenization", "queue", "inference", "rest"} <= {
            line.text.split(":")[0] for line in browser.find_elements(By.CSS_SELECTOR, "#stages li")
        }
        assert "milliseconds" in browser.find_element(By.ID, "bar").get_attribute("aria-label")
        assert browser.switch_to.active_element.get_attribute("id") == "results"
        assert errors(browser) == []


def test_every_field_has_a_name(browser):
    with served(create_app(Words())) as url:
        opened(browser, url)
        unnamed = "return [...document.querySelectorAll('input, textarea')].filter(field => !field.labels.length).map(field => field.id)"
        assert browser.execute_script(unnamed) == []
        assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
        reached = set()
        for _ in range(12):
            browser.switch_to.active_element.send_keys(Keys.TAB)
            reached.add(browser.switch_to.active_element.get_attribute("id") or browser.switch_to.active_element.tag_name)
        assert {"query", "documents", "depth", "key", "button"} <= reached


def test_an_index_is_searched_and_errors_are_shown(browser):
    retriever = rr.BM25(rr.BM25Index.build(rr.Corpus.from_texts(TEXTS)))
    with served(create_app(Words(), retriever=retriever, keys=["secret"])) as url:
        opened(browser, url)
        assert "401" in asked(browser, "green tea health", TEXTS)
        assert "error" in browser.find_element(By.ID, "status").get_attribute("class")
        browser.find_element(By.ID, "key").send_keys("secret", Keys.TAB)
        WebDriverWait(browser, 10).until(lambda b: b.find_element(By.ID, "by-index").is_enabled())
        browser.find_element(By.ID, "by-index").send_keys(Keys.SPACE)
        assert asked(browser, "green tea health") == "2 documents ranked."
        assert [row[4] for row in rows(browser)] == [TEXTS[1], TEXTS[2]]
        assert [line.text.split(":")[0] for line in browser.find_elements(By.CSS_SELECTOR, "#stages li")] == ["BM25", "Words"]


def test_words_that_were_met_are_marked(browser):
    pytest.importorskip("onnxruntime", reason="runs a real model")
    try:
        model = rr.load("answerai-colbert-small-v1")
    except MissingDependency as error:
        pytest.skip(str(error))
    with served(create_app(model)) as url:
        opened(browser, url)
        documents = [
            "Paris is the capital of France.",
            "Fleas bite dogs and cats, and live in carpets.",
            "How to get rid of ants in a kitchen.",
            "A flea bath helps: vacuum the carpets and wash all bedding 🐕 to get rid of the rest.",
            "Get a room with a view of the sea.",
        ]
        assert "5 documents" in asked(browser, "how do I get rid of fleas", documents)
        found = rows(browser)
        assert {row[4] for row in found[:3]} == {documents[1], documents[2], documents[3]}
        marks = [mark.text for mark in browser.find_elements(By.CSS_SELECTOR, "#rows mark")]
        assert any("rid" in mark for mark in marks) and any("Fleas" in mark for mark in marks)
        pictured(browser, "playground.png")
        asked(browser, "how do I get rid of fleas", ["Ants march. " * 300])
        assert "tokens not read" in browser.find_element(By.ID, "rows").text
        assert errors(browser) == []
