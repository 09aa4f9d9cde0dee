"""The README's pictures: legible on a light and on a dark page, and drawn from what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "pictures"
README = (ROOT / "README.md").read_text(encoding="utf-8")
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


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_every_colour_stands_out_from_a_light_and_from_a_dark_page(path):
    picture = path.read_text(encoding="utf-8")
    colours = set(re.findall(r"#[0-9a-fA-F]{6}", picture))
    assert len(colours) >= 2
    for colour in colours:
        assert min(contrast(colour, WHITE), contrast(colour, NEARLY_BLACK)) >= LEAST_CONTRAST, colour
    # Letters without a colour of their own would be black.
    for text in re.findall(r"<text [^>]*>", picture):
        assert "fill: #" in text


def test_the_pictures_are_small_and_the_readme_shows_them_all():
    for path in [*PICTURES, *FOLDER.glob("*.png")]:
        assert path.stat().st_size < 120_000, path
        assert f"](examples/pictures/{path.name})" in README


def test_the_table_of_schedules_has_the_values_that_the_pictures_show(make):
    rows = re.findall(r"^\| `(\w+)` \| !\[.*\|(.*)\|$", README, re.MULTILINE)
    assert [name for name, _ in rows] == list(make.SCHEDULES)
    for name, text in rows:
        for params in make.SCHEDULES[name][0]:
            schedule = make.build(name, params)
            values = [f"{schedule.lr_at(step)[0]:.4g}" for step in range(5)]
            assert ", ".join(values) in text
            if schedule.momentum_at(0):
                assert ", ".join(f"{schedule.momentum_at(step)[0]:.4g}" for step in range(5)) in text


def test_the_same_picture_again_is_the_same_file(make, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make, "FOLDER", tmp_path)
    drawn = []
    for _ in range(2):
        with make.mpl.rc_context(make.STYLE):
            make.save(make.draw_schedule("OneCycle"), "OneCycle")
        drawn.append((tmp_path / "OneCycle.svg").read_text(encoding="utf-8"))
    assert drawn[0] == drawn[1]
    assert "momentum" in drawn[0]
    assert "kB" in capsys.readouterr().out
