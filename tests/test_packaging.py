"""The wheel holds the package and nothing else, and works from a folder of its own; the sdist also has its tests."""

import re
import subprocess
import sys
import tarfile
from configparser import ConfigParser
from email.message import Message
from email.parser import Parser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

import lightning_lrsched

ROOT = Path(__file__).parents[1]
PACKAGE = "lightning_lrsched"
CI = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))


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
        "hatch_build.py",
    }
    needed |= {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "LICENSE"}
    assert needed - files == set()


@pytest.fixture(scope="module")
def headers(unpacked) -> Message:
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    return Parser().parsestr(metadata.read_text(encoding="utf-8"))


def test_no_link_on_a_package_index_leads_nowhere(headers):
    page = headers.get_payload()
    assert page.startswith("# lightning_lrsched")
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", page) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "a page [b](https://b.org) [c](#c) "),
        (
            "https://host.org/o/r",
            "[a page](https://host.org/o/r/blob/v1.2/docs/a.md#x) [b](https://b.org) [c](#c) "
            "![d](https://host.org/o/r/raw/v1.2/d.svg)",
        ),
    ],
)
def test_relative_links_become_links_into_the_repository(source, expected):
    spec = spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    hatch_build = module_from_spec(spec)
    spec.loader.exec_module(hatch_build)
    page = "[a page](docs/a.md#x) [b](https://b.org) [c](#c) ![d](d.svg)"
    assert hatch_build.for_index(page, source, "1.2") == expected


def test_the_classifiers_name_the_python_versions_that_ci_runs(headers):
    claimed = set(re.findall(r"Python :: (3\.\d+)", "\n".join(headers.get_all("Classifier"))))
    matrix = {run["python"] for run in CI["jobs"]["test"]["strategy"]["matrix"]["include"]}
    others = [step["with"]["python-version"] for step in CI["jobs"]["other-systems"]["steps"] if "with" in step]
    assert claimed == matrix | set(others)
    assert headers["Requires-Python"] == f">={min(claimed, key=lambda version: int(version[2:]))}"


def test_the_oldest_session_has_the_oldest_versions_that_are_promised(headers):
    text = (ROOT / "constraints" / "oldest.txt").read_text("utf-8")
    pins = {plain(name): pin for name, pin in re.findall(r"^([\w-]+)==([\d.]+)$", text, re.MULTILINE)}
    assert pins["pytorch-lightning"] == pins["lightning"]
    for requirement in headers.get_all("Requires-Dist"):
        name, floor = re.match(r"([\w-]+).*?(?:>=([\d.]+)|$)", requirement).groups()
        if floor and not re.search(r"extra == '(lint|coverage|mutants)'", requirement):
            assert f"{pins[plain(name)]}.".startswith(f"{floor}."), requirement


def plain(name: str) -> str:
    return name.lower().replace("_", "-")


def test_every_session_of_the_makefile_runs_in_ci():
    sessions = re.search(r"^SESSIONS \?= (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1].split()
    assert [run["session"] for run in CI["jobs"]["test"]["strategy"]["matrix"]["include"]] == sessions
    pythons = dict(re.findall(r"^PYTHON_OF_(\w+) := (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert pythons == {run["session"]: run["python"] for run in CI["jobs"]["test"]["strategy"]["matrix"]["include"]}


def test_the_citation_has_the_packages_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == lightning_lrsched.__version__


def test_the_package_is_imported_from_the_wheel_and_has_its_version(unpacked, headers):
    path, version = run_from(unpacked, f"import {PACKAGE} as p; print(p.__file__, p.__version__)").rsplit(" ", 1)
    assert Path(path).parent == unpacked / PACKAGE
    assert (headers["Name"], headers["Version"]) == ("lightning-lrsched", version)


def test_importing_the_package_alone_imports_neither_torch_nor_lightning(unpacked):
    heavy = ("torch", "lightning", "pytorch_lightning", "matplotlib", "deepspeed")
    loaded = run_from(unpacked, f"import {PACKAGE}; print([name for name in {heavy} if name in sys.modules])")
    assert loaded == "[]"


def test_a_schedule_is_built_from_the_wheel(unpacked):
    code = f"""
import torch, {PACKAGE}.optim.schedulers as schedulers
optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
print(schedulers.__file__)
print(schedulers.OneCycle(optimizer, cycle_min_lr=0.1, cycle_max_lr=1.0, cycle_momentum=False).lr_at(2000))
"""
    path, lrs = run_from(unpacked, code).splitlines()
    assert Path(path).is_relative_to(unpacked)
    assert lrs == "[1.0]"


def test_without_tensorboard_every_module_is_imported_and_other_loggers_work(unpacked, tmp_path):
    code = f"""
import importlib, pkgutil, sys
sys.modules["tensorboard"] = None  # an import of it fails
import torch, {PACKAGE}
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
for module in pkgutil.walk_packages({PACKAGE}.__path__, "{PACKAGE}."):
    importlib.import_module(module.name)
class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch):
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)
data = torch.utils.data.DataLoader(torch.randn(64, 4))
for callback in ({PACKAGE}.LRSchedulerCallback(), {PACKAGE}.LRRangeTestCallback(num_steps=10)):
    logger = CSVLogger({str(tmp_path)!r})
    quiet = dict(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    Trainer(max_epochs=1, logger=logger, callbacks=[callback], log_every_n_steps=1, **quiet).fit(Module(), data)
"""
    run_from(unpacked, code)
    curves = [path.read_text("utf-8").splitlines()[0] for path in sorted(tmp_path.rglob("metrics.csv"))]
    assert len(curves) == 2
    assert "lr-SGD" in curves[0]


def test_every_trainer_asks_the_wheel_for_callbacks(unpacked, tmp_path):
    schedule = tmp_path / "schedule.json"
    schedule.write_text('{"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}', encoding="utf-8")
    code = f"""
import os
from lightning.pytorch import Trainer
from lightning_lrsched import LRSchedulerCallback
def count():
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    return sum(isinstance(callback, LRSchedulerCallback) for callback in trainer.callbacks)
os.environ.pop("LIGHTNING_LRSCHED_CONFIG", None)
without = count()
os.environ["LIGHTNING_LRSCHED_CONFIG"] = {str(schedule)!r}
print(without, count())
"""
    assert run_from(unpacked, code).splitlines()[-1] == "0 1"


def test_the_trainers_of_both_lightning_packages_ask_for_callbacks(unpacked):
    [written] = unpacked.glob("*.dist-info/entry_points.txt")
    points = ConfigParser()
    points.read(written)
    for package in ("lightning.pytorch", "pytorch_lightning"):
        assert dict(points[f"{package}.callbacks_factory"]) == {
            "lightning-lrsched": "lightning_lrsched.environment:callbacks"
        }
