"""The site's own extensions: curves, tables of keys, the notebook."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest

from lightning_lrsched.optim.schedulers import SCHEDULES
from lightning_lrsched.schedules.fields import with_keys
from tests.kit.pages import DOCS


@pytest.fixture(scope="module", autouse=True)
def extensions() -> Any:
    pytest.importorskip("sphinx", reason="Sphinx is not installed (it is part of the test extra)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(DOCS / "extensions"), *sys.path])
        yield


def test_curves_are_drawn_from_the_schedules_themselves() -> None:
    import schedule_curves

    assert sorted(schedule_curves.EXAMPLES) == sorted(SCHEDULES)
    values = schedule_curves.values("OneCycle")
    assert [values["lr"][""][step] for step in (0, 30, 90)] == pytest.approx([0.01, 0.1, 0.01])
    assert [values["momentum"][""][step] for step in (0, 30, 90)] == pytest.approx([0.9, 0.8, 0.9])
    drawn = schedule_curves.svg("WarmupLR")
    assert [len(points.split()) for points in re.findall(r'points="([^"]+)"', drawn)] == [101, 101]


def test_a_row_of_a_table_of_keys_says_what_the_rule_says() -> None:
    from reference_tables import allowed

    keys = {key: field for name in ("OneCycle", "PhasedLR") for key, field in with_keys(SCHEDULES[name].fields)}
    assert allowed(keys["decay_lr_rate"]) == "a number at least 0"
    assert allowed(keys["cycle_min_mom"]) == (
        "a number at least 0 and below 1, or a list with one for each param group"
    )
    assert allowed(keys["cycle_first_step_size"]) == 'steps, at least 1; also ``0.1``, ``"10%"``, ``"2ep"``, ``"auto"``'
    assert allowed(keys["phases[].shape"]).startswith('``"linear"`` or ``"cosine"``')


def test_a_notebook_has_the_text_without_what_only_the_site_has() -> None:
    from notebook import notebook

    site = "<!-- site -->\nsite\n<!-- end -->\n"
    text = "See [this](that.md) and [it](https://x).\n\n![p](p.svg)\n"
    page = f"# T\n\n{site}\n{text}\n```python\na = 1\n```\n\nend\n"
    install, text, code, end = notebook(page)["cells"]
    assert "%pip install" in "".join(install["source"])
    assert "".join(text["source"]) == "# T\n\n\nSee this and [it](https://x)."
    assert (code["cell_type"], code["source"]) == ("code", ["a = 1"])
    assert end["source"] == ["end"]
