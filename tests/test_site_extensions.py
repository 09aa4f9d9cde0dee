"""The site's own extensions: curves, tables of keys, the notebook."""

from __future__ import annotations

import re
import sys
from typing import Any
from xml.etree import ElementTree as ET

import pytest

import lightning_lrsched
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
    from keys_page import row

    keys = {key: field for name in ("OneCycle", "PhasedLR") for key, field in with_keys(SCHEDULES[name].fields)}
    assert row(keys["decay_lr_rate"])[:4] == ["number", "at least 0", "`0.0`", ""]
    assert row(keys["cycle_min_mom"])[:2] == ["number or list", "at least 0, below 1"]
    assert row(keys["cycle_max_lr"])[2:4] == [
        "required",
        '`"auto"`: each param group\'s own lr; `"lr_range_test"`: the high bound of a range test',
    ]
    assert row(keys["cycle_second_step_size"])[:4] == [
        "steps or null",
        "at least 0",
        "`null`",
        '`"auto"`: 0.6 of the run',
    ]
    assert row(keys["phases[].shape"])[1].startswith('`"linear"`, `"cosine"`')


def test_the_page_of_keys_and_its_curves_are_those_of_the_schedules() -> None:
    from keys_page import files

    made = {path.relative_to(DOCS).as_posix(): text for path, text in files().items()}
    found = {path: (DOCS / path).read_text("utf-8") for path in made}
    assert found == made, "run python docs/extensions/keys_page.py"
    assert {path.stem for path in (DOCS / "curves").iterdir()} == set(SCHEDULES)
    for path in (DOCS / "curves").iterdir():
        assert ET.fromstring(path.read_text("utf-8")).tag.endswith("svg")


def test_the_page_of_attributes_and_methods_is_that_of_the_docstrings() -> None:
    from api_page import SHOWN, files

    found = {path: path.read_text("utf-8") for path in files()}
    assert found == files(), "run python docs/extensions/api_page.py"
    [page] = found.values()
    for name in ("LRSchedulerCallback", "LRRangeTestCallback"):
        members = vars(getattr(lightning_lrsched, name)).items()
        properties = {member for member, one in members if isinstance(one, property) and member[0] != "_"}
        assert properties == set(SHOWN[name])
    for told in (
        "`probe_result`: What the probe",
        "`one_cycle()`: Return a ready OneCycle",
        "`peak`: 1Cycle's highest lr",
    ):
        assert f"- {told}" in page
    assert ":class:" not in page


def test_a_part_for_the_site_is_a_comment_elsewhere() -> None:
    from site_only import uncomment

    page = "# T\n\n<!-- site:\n```{toctree}\na\n```\n-->\n\n<!-- a remark -->\nend\n"
    assert uncomment(page) == "# T\n\n\n```{toctree}\na\n```\n\n\n<!-- a remark -->\nend\n"


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
