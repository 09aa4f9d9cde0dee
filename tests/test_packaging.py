"""The wheel holds the package and nothing else, and works from a folder of its own; the sdist also has its tests."""

import subprocess
import sys
import tarfile
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "lightning_lrsched"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling is not installed (it is part of the test extra)")
    folder = tmp_path_factory.mktemp("wheel")
    # No isolation and no dependencies: nothing is downloaded.
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", *options, str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    return path


def run_from(folder: Path, code: str) -> str:
    """Run ``code`` where only ``folder``, the standard library and the installed dependencies can be imported."""
    script = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    command = [sys.executable, "-I", "-c", script]  # -I: neither the working directory nor PYTHONPATH
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with ZipFile(wheel) as archive:
        files = set(archive.namelist())
    in_tree = {path.relative_to(ROOT).as_posix() for path in (ROOT / PACKAGE).rglob("*.py")} | {f"{PACKAGE}/py.typed"}
    assert {name for name in files if ".dist-info/" not in name} == in_tree
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files)


def test_the_sdist_has_what_the_tests_and_the_reference_need(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling is not installed (it is part of the test extra)")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    python = [path for folder in (PACKAGE, "tests", "examples", "docs") for path in (ROOT / folder).rglob("*.py")]
    needed = {path.relative_to(ROOT).as_posix() for path in [*python, *(ROOT / "docs").rglob("*.rst")]}
    needed |= {
        "tests/integration/golden.json",
        "examples/ds_config.json",
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
    }
    needed |= {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"}
    assert needed - files == set()


def test_the_package_is_imported_from_the_wheel_and_has_its_version(unpacked):
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    headers = Parser().parsestr(metadata.read_text(encoding="utf-8"))
    path, version = run_from(unpacked, f"import {PACKAGE} as p; print(p.__file__, p.__version__)").rsplit(" ", 1)
    assert Path(path).parent == unpacked / PACKAGE
    assert (headers["Name"], headers["Version"]) == ("lightning-lrsched", version)


def test_importing_the_package_alone_imports_neither_torch_nor_lightning(unpacked):
    heavy = ("torch", "lightning", "pytorch_lightning", "matplotlib", "deepspeed")
    loaded = run_from(unpacked, f"import {PACKAGE}; print([name for name in {heavy} if name in sys.modules])")
    assert loaded == "[]"


def test_a_schedule_is_built_from_the_wheel(unpacked):
    code = f"""
import torch, {PACKAGE}.schedulers as schedulers
optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
print(schedulers.__file__)
print(schedulers.OneCycle(optimizer, cycle_min_lr=0.1, cycle_max_lr=1.0, cycle_momentum=False).lr_at(2000))
"""
    path, lrs = run_from(unpacked, code).splitlines()
    assert Path(path).is_relative_to(unpacked)
    assert lrs == "[1.0]"
