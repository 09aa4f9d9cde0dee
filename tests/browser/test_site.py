"""The documentation in a real browser: no page is wider than the window, every picture is there, the search finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
WIDTHS = (1280, 390)
"""[pixels] Of a desktop's window, and of a phone."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "--fresh-env", "-c", "docs", ".", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stderr
    return out


def show(browser: Any, file: Path, width: int, query: str = "") -> None:
    browser.open(f"{file.as_uri()}{query}", width, 900)
    browser.wait_for("document.readyState == 'complete' && location.protocol == 'file:'")


def of_the_site(site: Path) -> list[Path]:
    found = sorted(page for page in (site / "docs").rglob("*.html"))
    assert len(found) > 40
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_window(site: Path, browser: Any, width: int) -> None:
    too_wide = []
    for page in of_the_site(site):
        show(browser, page, width)
        if browser.ask("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            too_wide.append(page.relative_to(site).as_posix())
    assert too_wide == []


def test_titles_differ_pictures_are_there_and_code_can_be_copied(site: Path, browser: Any) -> None:
    titles = []
    for page in of_the_site(site):
        show(browser, page, 1280)
        titles.append(browser.ask("document.title"))
        assert browser.ask("[...document.images].filter(image => image.complete && !image.naturalWidth).length") == 0
        assert browser.ask("findAll('pre').length <= findAll('button.copybtn').length"), page
    assert sorted(titles) == sorted(set(titles))


def test_nothing_is_downloaded_but_the_notebook(site: Path) -> None:
    assert [path.name for path in (site / "_downloads").rglob("*.*")] == ["first_range_test.ipynb"]


@pytest.mark.parametrize(
    ("word", "page"), [("cycle_min_lr", "keys"), ("Hydra", "hydra"), ("StochasticWeight", "messages")]
)
def test_the_search_finds_a_detail(site: Path, browser: Any, word: str, page: str) -> None:
    show(browser, site / "search.html", 1280, f"?q={word}")
    browser.wait_for("findAll('ul.search li a').length")
    assert any(page in link for link in browser.ask("findAll('ul.search li a').map(link => link.getAttribute('href'))"))
