"""The pictures of README and documentation: small, shown, and legible on a light and on a dark page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_lrsched import ProbeResult

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "pictures"
PICTURES = sorted(FOLDER.glob("*.svg"))

WHITE, NEARLY_BLACK = "#ffffff", "#0d1117"
LEAST_CONTRAST = 3.0  # what the Web Content Accessibility Guidelines ask of graphics and large letters


def luminance(colour: str) -> float:
    """Return the relative luminance as the same guidelines define it."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_what_the_guidelines_say():
    assert contrast("#000000", WHITE) == pytest.approx(21)
    assert contrast("#777777", WHITE) == pytest.approx(4.48, abs=0.01)


def grounds(picture: str) -> list[str]:
    """Return the colours that lie behind a picture: its own ground, else those of the pages."""
    own = re.search(r'id="patch_1">\s*<path [^>]*style="fill: (#[0-9a-f]{6})"', picture)
    return [own[1]] if own else [WHITE, NEARLY_BLACK]


RANGE_TESTS = [FOLDER / "range_test.svg", ROOT / "docs" / "tutorial" / "first_range_test.svg"]


@pytest.mark.parametrize("path", RANGE_TESTS, ids=lambda path: path.stem)
def test_a_range_test_has_a_ground_of_its_own(path):
    assert grounds(path.read_text(encoding="utf-8")) == [WHITE]


@pytest.mark.parametrize("path", [*PICTURES, RANGE_TESTS[1]], ids=lambda path: path.stem)
def test_every_colour_stands_out_from_what_is_behind_it(path):
    picture = path.read_text(encoding="utf-8")
    behind = grounds(picture)
    colours = set(re.findall(r"#[0-9a-fA-F]{6}", picture))
    if len(behind) == 1:
        colours -= {*behind}
    assert len(colours) >= 2
    for colour in colours:
        assert min(contrast(colour, ground) for ground in behind) >= LEAST_CONTRAST, colour
    if len(behind) == 1:
        return
    # Letters without a colour of their own would be black.
    for text in re.findall(r"<text [^>]*>", picture):
        assert "fill: #" in text


def test_the_pictures_are_small_and_shown():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = "".join(page.read_text(encoding="utf-8") for page in pages)
    for path in [*PICTURES, *FOLDER.glob("*.png")]:
        assert path.stat().st_size < 120_000, path
        assert f"examples/pictures/{path.name})" in shown


@pytest.fixture
def found(make, tmp_path, monkeypatch) -> Callable[[], str]:
    """Draws what a probe found, and returns the picture."""
    monkeypatch.setattr(make, "FOLDER", tmp_path)
    result = ProbeResult(0.15, "", 0.15, 0.2, [0.0, 0.1, 0.2, 0.4, 0.8], [2.0, 1.7, 1.5, 1.8, float("inf")])

    def draw() -> str:
        with make.mpl.rc_context(make.STYLE):
            make.save(make.draw_found(result), "found", make.animate)
        return (tmp_path / "found.svg").read_text(encoding="utf-8")

    return draw


def test_the_same_picture_again_is_the_same_file(found, capsys):
    first, second = found(), found()
    assert first == second
    assert "peak 0.15" in first
    assert "kB" in capsys.readouterr().out


def test_what_moves_is_there_and_stands_still_for_readers_who_want_that(found):
    picture = found()
    moving = re.findall(r"#(found-[\w-]+)", picture)
    assert len(moving) == 4
    for name in moving:
        assert f'id="{name}"' in picture
    assert "prefers-reduced-motion: no-preference" in picture
