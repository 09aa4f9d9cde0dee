"""The reference is complete, and the pages say what the code says. `make docs` tells whether the site builds."""

import argparse
import ast
import json
import re
import sys
from itertools import pairwise
from statistics import median

import pytest
import yaml

import lightning_lrsched
from lightning_lrsched import RangeTestResult
from lightning_lrsched.__main__ import _parser
from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.kit.pages import BLOCK, DOCS, ROOT

PAGES = [page.read_text(encoding="utf-8") for page in DOCS.glob("*.rst")]
TUTORIAL = DOCS / "tutorial" / "first_range_test.md"
sys.path.append(str(DOCS / "extensions"))


def documented() -> list[str]:
    names = []
    for page in PAGES:
        module = ""
        for directive, name in re.findall(r"^\.\. (currentmodule|auto\w+):: (\S+)$", page, re.MULTILINE):
            if directive == "currentmodule":
                module = f"{name}."
            else:
                names.append(name if name.startswith("lightning_lrsched.") else module + name)
    return names


def test_every_public_name_is_in_the_reference_once():
    names = documented()
    public = {f"lightning_lrsched.{name}" for name in [*lightning_lrsched.__all__, "cli.LRSchedulerCLI"]}
    assert public - set(names) == {"lightning_lrsched.__version__"} - set(names)
    assert len(names) == len(set(names))


def test_every_subcommand_is_in_the_reference():
    (commands,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    shown = re.findall(r"^\.\. console-help:: (\S+)$", "\n".join(PAGES), re.MULTILINE)
    assert sorted(shown) == sorted(commands.choices)
    assert "lightning_lrsched.cli.LRRangeTestTrainer.lr_range_test" in documented()


def test_every_schedule_has_a_curve_in_the_reference():
    shown = re.findall(r"^\.\. schedule-curve:: (\S+)$", "\n".join(PAGES), re.MULTILINE)
    assert sorted(shown) == sorted(SCHEDULERS)


def test_the_titles_of_pages_differ():
    pages = [path for path in DOCS.rglob("*.*") if path.suffix in (".md", ".rst")]
    texts = [path.read_text("utf-8") for path in pages]
    titles = [re.search(r"^(?:# (.+)|(.+)\n=+)$", text, re.MULTILINE) for text in texts]
    found = [next(filter(None, title.groups())) for title in titles if title is not None]
    assert len(found) == len(pages)
    assert sorted(found) == sorted(set(found))


def test_every_example_has_a_page():
    shown = {
        name
        for page in (DOCS / "examples").glob("*.md")
        for name in re.findall(r"examples/(\S+\.py)$", page.read_text("utf-8"), re.MULTILINE)
    }
    assert shown == {
        path.relative_to(ROOT / "examples").as_posix()
        for path in (ROOT / "examples").rglob("*.py")
        if not {"pictures", "tutorial"} & set(path.relative_to(ROOT).parts)  # the tutorial's page is the tutorial
    }


def test_the_site_finds_the_pictures_of_its_markdown_pages():
    # Those of Markdown and of <img> it copies; other HTML it passes on as it stands, files left behind.
    pages = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    assert [page.name for page in pages if re.search(r"<(picture|source|video)\b", page.read_text("utf-8"))] == []


# Pages that are read in the repository, where no site is built -------------------------------------------------------

MARKDOWN = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
EVERY_PAGE = pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.relative_to(ROOT).as_posix())


def rendered(text):
    """Return the tokens of a page, by a renderer that knows no Sphinx: blocks, and what is in a line."""
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed (the docs extra has it)")
    blocks = markdown_it.MarkdownIt("commonmark").enable("table").parse(text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


def only_for_sphinx(text):
    """Return what readers see of a page in the repository that only Sphinx understands."""
    tokens = rendered(text)
    pairs = list(pairwise(tokens))
    directives = [token.info for token in tokens if token.type == "fence" and token.info.startswith("{")]
    containers = [token.content for token in tokens if token.type == "text" and ":::" in token.content]
    roles = [
        one.content for one, after in pairs if after.type == "code_inline" and re.search(r"\{[\w:]+\}$", one.content)
    ]
    empty = [one.attrGet("href") for one, after in pairs if (one.type, after.type) == ("link_open", "link_close")]
    return directives + containers + roles + empty


def links(page):
    """Return the files of the repository that a page leads to, pictures too."""
    tokens = rendered(page.read_text("utf-8"))
    targets = [token.attrGet("href") or token.attrGet("src") for token in tokens]
    files = [target.partition("#")[0] for target in targets if target and not re.match(r"https?:|#", target)]
    return [(page.parent / file).resolve() for file in files]


@EVERY_PAGE
def test_a_page_shows_nothing_that_only_the_site_understands(page):
    assert only_for_sphinx(page.read_text("utf-8")) == []


def test_what_only_the_site_understands_is_found():
    page = "see {func}`x` and [](y), {a}\n\n```{toctree}\nz\n```\n\n:::{note}\n:::\n\n`{step}`\n\n<!-- {ref}`a` -->\n"
    assert only_for_sphinx(page) == ["{toctree}", ":::{note}", ":::", "see {func}", "y"]


@EVERY_PAGE
def test_the_links_of_a_page_lead_to_files(page):
    assert [file for file in links(page) if not file.exists()] == []


def test_what_the_readme_leads_to_has_a_text_in_the_repository():
    found, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in found and page.suffix == ".md":
            found.add(page)
            ahead += links(page)
    assert DOCS / "keys.md" in found
    texts = {page: [token for token in rendered(page.read_text("utf-8")) if token.type == "text"] for page in found}
    assert [page.name for page, tokens in texts.items() if len(tokens) < 3] == []


def test_read_the_docs_builds_the_site_as_make_does():
    jobs = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text("utf-8"))["build"]["jobs"]
    made = re.search(r"-m (sphinx .+) build/docs$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert jobs["build"]["html"] == [f"python -m {made[1]} $READTHEDOCS_OUTPUT/html"]
    assert jobs["install"] == ['python -m pip install --constraint constraints.txt ".[docs]"']


# Messages ---------------------------------------------------------------------------------------------------------


def texts_in_the_code() -> list[str]:
    """Return every text of the package, with a null character for each value that is filled in."""
    found = []
    for path in (ROOT / "lightning_lrsched").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_message_that_the_docs_quote_is_in_the_code():
    page = (DOCS / "messages.md").read_text("utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(quoted) >= 40
    texts = texts_in_the_code()
    missing = []
    for message in quoted:
        parts = [re.escape(part) for part in message.strip("… ").split("…")]
        pattern = re.compile(r"[^\n]*?\0[^\n]*?".join(parts))
        if not any(pattern.search(text) for text in texts):
            missing.append(message)
    assert missing == []


# The tutorial -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads(TUTORIAL.with_suffix(".json").read_text("utf-8"))


def test_the_tutorials_table_is_what_was_measured(record):
    rows = re.findall(
        r"^\| (.+?) \| (?:\*\*)?([\d.]+)(?:\*\*)? \(([\d.]+) \.\. ([\d.]+)\) \|$",
        TUTORIAL.read_text("utf-8"),
        re.MULTILINE,
    )
    stated = [tuple(map(float, numbers)) for _, *numbers in rows]
    order = ("default", "low", "suggestion", "high", "lowest", "end", "one_cycle")
    measured = [record["accuracies"][row] for row in order]
    assert stated == [tuple(round(f(values), 1) for f in (median, min, max)) for values in measured]


def test_the_tutorials_numbers_are_those_of_its_plot(record):
    result = RangeTestResult.from_dict(record["result"])
    low, high = result.bounds()
    lowest = result.lrs[min(range(len(result.lrs)), key=lambda index: result.smoothed_losses[index])]
    stated = re.findall(r"^\d\. \*\*.*?, (?:at )?([\d.]+?)\.\*\*", TUTORIAL.read_text("utf-8"), re.MULTILINE)
    assert stated == [f"{lr:.2g}" for lr in (low, result.suggestion(), high, lowest, result.lrs[-1])]


def test_the_notebook_is_made_from_the_page():
    from notebook import text_of

    assert TUTORIAL.with_suffix(".ipynb").read_text("utf-8") == text_of(TUTORIAL)


@pytest.mark.slow  # a range test and three trainings
@pytest.mark.filterwarnings("ignore")  # those of Jupyter about itself
def test_the_notebook_runs(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(TUTORIAL.with_suffix(".ipynb"), as_version=4)
    del book.cells[0]  # installs what is installed here
    NotebookClient(book, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    before, after = (float(percent) for percent in re.search(r"before: ([\d.]+)%, after: ([\d.]+)%", printed).groups())
    assert before < 90
    assert after > 97
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_blocks_have_a_language_that_is_run_or_shown():
    for page in DOCS.rglob("*.md"):
        fences = re.findall(r"^```(\S*)$", BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
        assert all(fence == "" or fence.startswith("{") for fence in fences), page
        languages = {language for language, _ in BLOCK.findall(page.read_text("utf-8"))}
        assert languages <= {"python", "py", "sh", "json", "yaml", "text"}, page


# Strategies -------------------------------------------------------------------------------------------------------


def test_every_cell_of_the_table_of_strategies_names_a_test_that_exists():
    page = (DOCS / "strategies.md").read_text(encoding="utf-8")
    matrix, tests = page.partition("## The tests")[::2]
    rows = [line for line in matrix.splitlines() if line.startswith("| ")][1:]
    used = {
        cell.split(" ")[0]
        for row in rows
        for cell in row.split(" | ")[1:]
        if re.fullmatch(r"[a-z]( .*)?", cell.strip(" |"))
    }
    named = dict(re.findall(r"^\| ([a-z]) \| (.+) \|$", tests, re.MULTILINE))
    assert used == set(named)
    for text in named.values():
        files = [ROOT / file for file in re.findall(r"`(tests/[\w/]+\.py)`", text)]
        content = "".join(file.read_text(encoding="utf-8") for file in files)
        assert files
        for name in re.findall(r"`(test_\w+)`", text):
            assert f"def {name}(" in content, name
