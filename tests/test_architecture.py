"""Imports point one way, and the check of it can fail; the tests mirror the modules."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "lightning_lrsched"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter", reason="import-linter is not installed (it is part of the test extra)")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_imports_point_one_way():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("importer", "imported", "contract"),
    [
        ("optim/hyperparameters.py", "lightning_lrsched.config", "Imports point one way"),
        ("config/__init__.py", "lightning_lrsched.range_test", "Imports point one way"),
        ("config/__init__.py", "lightning_lrsched.trainer", "Imports point one way"),
        ("schedules/fields.py", "lightning_lrsched.schedules.schedule", "In schedules/, a family is built on the base"),
        ("optim/clock.py", "lightning_lrsched.optim.scheduled_lr", "In optim/, a class is built on"),
        ("schedules/growth.py", "torch", "Schedules need no torch"),
        ("schedules/curves.py", "numpy", "The curves are plain functions"),
        ("range_test/__init__.py", "lightning", "Only callbacks and the CLI need Lightning"),
    ],
)
def test_the_check_notices_an_import_against_the_direction(tmp_path, importer, imported, contract):
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / PACKAGE / importer).open("a") as file:
        file.write(f"\nimport {imported}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert any(contract in line and " BROKEN" in line for line in result.stdout.splitlines()), result.stdout


@pytest.mark.parametrize(
    ("rooms", "unneeded"),
    [
        (["schedules"], ["torch", "lightning", "pytorch_lightning"]),
        (
            ["optim.schedulers", "arguments", "range_test.loop", "preview"],
            ["lightning", "pytorch_lightning"],
        ),
    ],
)
def test_the_lower_rooms_work_without(rooms, unneeded):
    # The contract reads import statements; this runs them, with everything that other packages import in turn.
    imports = ", ".join(f"{PACKAGE}.{room}" for room in rooms)
    script = f"import sys, {imports}\nprint([name for name in {unneeded} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


TESTS = ROOT / "tests"
TABLE = re.findall(
    r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE
)
"""(what, where, tests) of "To change X, open Y"."""


def files_in(column: int, *roots: Path) -> set[Path]:
    """Return the files that a column of the table names; a file that does not exist fails the test."""
    names = re.findall(r"`([\w./]+\.(?:py|md|toml))`", " ".join(row[column] for row in TABLE[1:]))
    found = {name: [root / name for root in roots if (root / name).exists()] for name in names}
    assert [name for name, paths in found.items() if not paths] == []
    return {paths[0] for paths in found.values()}


def test_the_table_of_changes_names_every_module_and_the_files_are_there():
    named = files_in(1, ROOT / PACKAGE, ROOT)
    modules = {path for path in (ROOT / PACKAGE).rglob("*.py") if path.name != "__init__.py"}
    one_row_for_all = {path for path in modules if path.parent.name == "schedules"}
    assert modules - named - one_row_for_all == set()


def test_a_test_file_in_a_room_is_named_after_a_module_of_that_room_or_stands_in_the_table():
    rooms = [path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")]
    files = {path for room in rooms for path in (TESTS / room).glob("test_*.py")} - files_in(2, TESTS, ROOT)
    modules = [ROOT / PACKAGE / file.relative_to(TESTS).parent / file.name.removeprefix("test_") for file in files]
    assert [str(path) for path in modules if not path.exists()] == [
        str(ROOT / PACKAGE / "optim" / "corrected_on_purpose.py")  # of all schedules
    ]


def test_no_test_file_imports_from_another():
    importing = re.compile(r"^ *(from|import) (\.|tests\.(\w+\.)*(test_|conftest))", re.MULTILINE)
    assert [path.name for path in TESTS.rglob("*.py") if importing.search(path.read_text(encoding="utf-8"))] == []
