"""The recipe for conda-forge and the configuration for Lightning's ecosystem CI say what pyproject.toml says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_lrsched

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
RECIPE = yaml.safe_load((ROOT / ".github" / "recipe.yaml").read_text("utf-8"))
ECOSYSTEM = yaml.safe_load((ROOT / ".github" / "ecosystem-ci.yaml").read_text("utf-8"))
IN_CONDA_FORGE = {"torch": "pytorch", "hjson": "hjson-py", "PyYAML": "pyyaml"}
PYTHONS = re.findall(r"Python :: (3\.\d+)", PROJECT)


def requirements(key: str) -> set[str]:
    """Return the requirements of a list in pyproject.toml, with the names and the blanks of conda-forge."""
    [text] = re.findall(rf"^{key} = \[(.*?)\]$", PROJECT, re.MULTILINE | re.DOTALL)
    found = [re.fullmatch(r"([\w-]+)(.*)", each).groups() for each in re.findall(r'"([^"]+)"', text)]
    return {f"{IN_CONDA_FORGE.get(name, name)} {versions}" for name, versions in found}


def stated(key: str) -> str:
    return re.search(rf'^{key} = "(.+)"$', PROJECT, re.MULTILINE)[1]


# conda-forge ----------------------------------------------------------------------------------------------------------


def test_the_recipe_has_the_projects_requirements() -> None:
    assert set(RECIPE["requirements"]["run"]) == {*requirements("dependencies"), "python >=${{ python_min }}"}
    assert set(RECIPE["requirements"]["host"]) == {*requirements("requires"), "python ${{ python_min }}.*", "pip"}
    assert stated("requires-python") == f">={RECIPE['context']['python_min']}"


def test_the_recipe_is_of_this_version_and_this_project() -> None:
    assert RECIPE["schema_version"] == 1
    assert RECIPE["context"]["version"] == lightning_lrsched.__version__
    assert RECIPE["package"]["name"] == stated("name")
    assert RECIPE["about"]["summary"] == stated("description")
    assert RECIPE["about"]["license"] == stated("license")
    assert (ROOT / RECIPE["about"]["license_file"]).is_file()
    assert RECIPE["about"]["homepage"] == stated("Homepage")


def test_the_recipes_command_is_the_projects() -> None:
    [(name, target)] = re.findall(
        r'^([\w-]+) = "(.+)"$', PROJECT.split("[project.scripts]")[1].split("[")[0], re.MULTILINE
    )
    assert RECIPE["build"]["python"]["entry_points"] == [f"{name} = {target}"]
    [commands] = [test["script"] for test in RECIPE["tests"] if "script" in test]
    assert [command.split()[0] for command in commands] == [name]


# Lightning's ecosystem CI ---------------------------------------------------------------------------------------------


def copied() -> list[Path]:
    return [ROOT / path for path in ECOSYSTEM["source_repository"]["copy_tests"]]


def test_it_has_the_keys_that_lightnings_tools_read() -> None:
    assert set(ECOSYSTEM) == {"source_repository", "env", "dependencies", "testing", "runtimes"}
    source = re.search(r'^Source = "(.+)"$', PROJECT, re.MULTILINE)
    address = source[1] if source else "https://github.com/OWNER/lightning_lrsched"
    assert ECOSYSTEM["source_repository"]["HTTPS"] == f"{address}.git"
    assert re.search(rf"^{ECOSYSTEM['source_repository']['install_extras']} = \[", PROJECT, re.MULTILINE)
    assert all(isinstance(value, str) for value in ECOSYSTEM["env"].values())


def test_what_it_copies_and_runs_exists() -> None:
    assert [path for path in copied() if not path.exists()] == []
    folders = [ROOT / path for path in ECOSYSTEM["testing"]["dirs"]]
    assert set(folders) <= set(copied())
    for mark in re.findall(r"not (\w+)", ECOSYSTEM["testing"]["pytest_args"]):
        assert re.search(rf'^  "{mark}: ', PROJECT, re.MULTILINE)


def test_what_the_tests_import_from_each_other_is_copied() -> None:
    files = [file for path in copied() for file in ([path] if path.is_file() else path.rglob("*.py"))]
    imports = {
        name
        for file in files
        for name in re.findall(r"^\s*(?:from|import) (tests(?:\.\w+)+)", file.read_text("utf-8"), re.MULTILINE)
    }
    assert "tests.kit.modules" in imports
    for name in imports:
        path = ROOT.joinpath(*name.split("."))
        assert any(path == each or each in path.parents for each in copied()), name


@pytest.mark.parametrize("runtime", ECOSYSTEM["runtimes"], ids=lambda runtime: f"{runtime['os']}, {runtime['python']}")
def test_it_runs_on_versions_that_are_promised(runtime: dict[str, Any]) -> None:
    assert runtime["python"] in PYTHONS


def test_lightning_is_the_one_before_its_next_release() -> None:
    # What is released, CI tests here; the package on which this one depends, not pytorch-lightning.
    [dependency] = ECOSYSTEM["dependencies"]
    assert any(each.split()[0] == dependency["name"] for each in requirements("dependencies"))
    assert dependency["checkout"] == "master"
    assert ECOSYSTEM["env"]["PACKAGE_NAME"] == dependency["name"]
