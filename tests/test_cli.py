"""LRSchedulerCLI in this process: its help, its printed configuration, its refusals, Lightning's own section."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import SaveConfigCallback
from torch.optim import Optimizer

pytest.importorskip("jsonargparse", reason="jsonargparse, which LRSchedulerCLI needs, is not installed")

from lightning_lrsched import SchedulerConfig
from lightning_lrsched.cli import LRSchedulerCLI
from lightning_lrsched.optim.schedulers import SCHEDULERS
from tests.kit.train import Plain, Regression

SECTION = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1, "warmup_num_steps": 4}}
QUIET = [
    "--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.max_epochs=1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_command_line(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, module: Any = Plain, **options: Any) -> LRSchedulerCLI:
    options = {"seed_everything_default": 1, "save_config_callback": None, **options}
    return LRSchedulerCLI(module, args=list(arguments), **options)


def refusal(capsys: Any, *arguments: str) -> str:
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert error.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "lr_range_test"])
def test_help_names_every_schedule_and_the_options_of_the_range_test_where_they_belong(capsys, command):
    with pytest.raises(SystemExit):
        run(command, "--help")
    text = capsys.readouterr().out
    assert [name for name in ("--scheduler", *SCHEDULERS) if name not in text] == []
    assert all((option in text) == (command != "fit") for option in ("--num_steps", "--max_lr", "--total_num_steps"))


def test_help_introduces_the_trainers_settings(capsys):
    class Own(Trainer):
        """Somebody's Trainer."""

    for options, heading in (({}, "The settings of the training:"), ({"trainer_class": Own}, "Somebody's Trainer:")):
        with pytest.raises(SystemExit):
            run("fit", "--help", **options)
        assert f"\n\n{heading}\n  --trainer CONFIG " in capsys.readouterr().out


def test_print_config_reads_back(capsys, tmp_path):
    with pytest.raises(SystemExit):
        run("fit", "--scheduler", json.dumps(SECTION), "--scheduler.params.warmup_num_steps", "auto", "--print_config")
    printed = capsys.readouterr().out
    section = {
        **SECTION,
        "params": {**SECTION["params"], "warmup_num_steps": "auto"},
        "unit": "step",
        "cool_down": None,
    }
    assert yaml.safe_load(printed)["scheduler"] == section
    (tmp_path / "config.yaml").write_text(printed)
    with pytest.raises(SystemExit):
        run("fit", "--config", "config.yaml", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["scheduler"] == section


def test_the_section_may_come_from_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("PL_FIT__SCHEDULER", json.dumps(SECTION))
    with pytest.raises(SystemExit):
        run("fit", "--print_config", parser_kwargs={"default_env": True})
    assert yaml.safe_load(capsys.readouterr().out)["scheduler"] == {**SECTION, "unit": "step", "cool_down": None}


def test_the_section_may_be_a_file(tmp_path):
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 2}, "scheduler": SECTION}))
    cli = run("fit", "--scheduler", "ds.json", *QUIET)
    assert cli.model.seen[4][0] == pytest.approx(0.1)
    assert json.loads((tmp_path / "seen.json").read_text()) == [list(values) for values in cli.model.seen]


PHASES = [
    {"steps": 4, "lr": 0.1, "momentum": 0.8},
    {"steps": 0.2, "shape": "cosine", "lr": {"ratio": 0.5}},
    {"steps": 2},
]
PHASED = {"type": "PhasedLR", "params": {"phases": PHASES, "start_momentum": 0.9}}


@pytest.mark.parametrize("way", ["yaml", "file", "section", "type and params", "one by one"])
def test_phases_come_from_yaml_and_from_the_command_line(tmp_path, way):
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({"scheduler": PHASED}))
    (tmp_path / "phases.yaml").write_text(yaml.safe_dump(PHASED))
    phases, params = json.dumps(PHASES), json.dumps(PHASED["params"])
    arguments = {
        "yaml": ["--config=fit.yaml"],
        "file": ["--scheduler=phases.yaml"],
        "section": [f"--scheduler={json.dumps(PHASED)}"],
        "type and params": ["--scheduler.type=PhasedLR", f"--scheduler.params={params}"],
        "one by one": ["--config=fit.yaml", "--scheduler.params.phases=[{steps: 9}]",
                       f"--scheduler.params.phases={phases}"],
    }[way]  # fmt: skip
    cli = run("fit", *arguments, *QUIET)
    expected = SchedulerConfig.of(PHASED).build(torch.optim.SGD([torch.zeros(1)], 0.01, momentum=0.9), total_steps=10)
    assert cli.model.seen == [(expected.lr_at(step)[0], expected.momentum_at(step)[0]) for step in range(10)]


def test_the_unit_is_one_more_key(tmp_path, capsys):
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({"scheduler": {**SECTION, "unit": "sample"}}))
    for arguments in (["--config=fit.yaml"], [f"--scheduler={json.dumps(SECTION)}", "--scheduler.unit=sample"]):
        cli = run("fit", *arguments, *QUIET)
        assert cli.trainer.callbacks[0].schedulers[0].last_epoch == 80
        with pytest.raises(SystemExit):
            run("fit", *arguments, "--print_config")
        assert yaml.safe_load(capsys.readouterr().out)["scheduler"]["unit"] == "sample"
    complaint = "list lightning_lrsched.LRSchedulerCallback in trainer.callbacks, with scheduler and tokens"
    assert complaint in " ".join(refusal(capsys, "fit", "--config=fit.yaml", "--scheduler.unit=token").split())


def test_tokens_come_with_the_callback_in_the_trainers_section(tmp_path):
    section = {**SECTION, "unit": "token"}
    callback = {
        "class_path": "lightning_lrsched.LRSchedulerCallback", "init_args": {"scheduler": section, "tokens": 5},
    }  # fmt: skip
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    cli = run("fit", "--config=fit.yaml", *QUIET)
    (ours,) = [callback for callback in cli.trainer.callbacks if hasattr(callback, "schedulers")]
    assert ours.schedulers[0].last_epoch == 5 * 80


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--scheduler.type", "WarmupL"], "did you mean 'WarmupLR'?"),
        (["--scheduler", '{"type": "WarmupLR", "params": {"x": 1}}'], "scheduler.params.x: WarmupLR has no such"),
        (["--scheduler", "missing.json"], "missing.json: no such file"),
    ],
)
def test_a_wrong_section_is_refused_as_any_wrong_argument(capsys, arguments, complaint):
    assert f"error: {complaint}" in (told := refusal(capsys, "fit", *arguments)) or complaint in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--max_lr=-1", "max_lr must be"),
        ("--mode=quadratic", "mode must be"),
        ("--total_num_steps=5", "total_num_steps must be"),
        ("--total_num_steps=many", "total_num_steps must be"),
        ("--total_num_steps=0.5", "total_num_steps must be"),
        ("--output=.", "output must be the name of a file"),
    ],
)
def test_a_mistake_in_the_range_test_is_refused_as_any_wrong_argument(capsys, argument, complaint):
    message = refusal(capsys, "lr_range_test", argument, *QUIET)
    assert f"error: {complaint}" in message
    assert "Traceback" not in message


class Linked(LRSchedulerCLI):
    """Its schedule follows from an argument of the module."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        super().add_arguments_to_parser(parser)
        parser.link_arguments("model.width", "scheduler", compute_fn=linked)


def linked(width: int) -> dict[str, Any]:
    return {**SECTION, "params": {**SECTION["params"], "warmup_num_steps": width}}


def test_a_link_may_give_the_section():
    cli = Linked(Plain, args=["fit", "--model.width=6", *QUIET], save_config_callback=None, seed_everything_default=1)
    assert cli.trainer.callbacks[0].schedulers[0].hyperparameters["warmup_num_steps"] == 6


def test_the_section_may_be_a_configuration_object():
    trainer = {flag[len("--trainer.") :].partition("=")[0]: yaml.safe_load(flag.partition("=")[2]) for flag in QUIET}
    config = {"subcommand": "fit", "fit": {"scheduler": SchedulerConfig.from_dict(SECTION), "trainer": trainer}}
    cli = LRSchedulerCLI(Plain, args=config, save_config_callback=None, seed_everything_default=1)
    assert cli.trainer.callbacks[0].schedulers[0].hyperparameters["warmup_num_steps"] == 4


def test_the_saved_configuration_holds_the_schedule_not_the_path_of_its_file(tmp_path):
    (tmp_path / "ds.json").write_text(json.dumps({"optimizer": {"type": "Adam"}, "scheduler": SECTION}))
    with_logger = [flag for flag in QUIET if "logger" not in flag]
    options = {"save_config_callback": SaveConfigCallback, "save_config_kwargs": {"overwrite": True}}
    run("fit", "--scheduler=ds.json", *with_logger, f"--trainer.default_root_dir={tmp_path}", **options)
    (tmp_path / "ds.json").unlink()
    saved = next(tmp_path.rglob("config.yaml"))
    assert yaml.safe_load(saved.read_text())["scheduler"] == SECTION
    cli = run("fit", "--config", str(saved), "--trainer.logger=false")
    assert cli.model.seen[4][0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arguments", "lrs"),
    [
        (["--lr_scheduler=StepLR", "--lr_scheduler.step_size=2", "--lr_scheduler.gamma=0.5"], [0.1, 0.1, 0.05, 0.05]),
        (["--lr_scheduler=WarmupLR", "--lr_scheduler.warmup_max_lr=0.1", "--lr_scheduler.warmup_num_steps=2",
          "--lr_scheduler.warmup_type=linear"], [0.0, 0.0, 0.05, 0.1]),
    ],
)  # fmt: skip
def test_lightnings_own_section_is_stepped_per_optimizer_step(arguments, lrs):
    optimizer = ["--optimizer=SGD", "--optimizer.lr=0.1", "--optimizer.momentum=0.9"]
    cli = run("fit", *optimizer, *arguments, *QUIET, "--trainer.limit_train_batches=4", module=Regression)
    assert [lr for lr, _ in cli.model.seen] == pytest.approx(lrs)


def test_trying_a_configuration_out_adds_no_class_that_lightning_cli_could_find():
    before = set(Optimizer.__subclasses__()), set(torch.optim.SGD.__subclasses__())
    SchedulerConfig.from_dict(SECTION)
    assert (set(Optimizer.__subclasses__()), set(torch.optim.SGD.__subclasses__())) == before


def test_a_scheduler_that_follows_a_metric_stays_lightnings():
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
    from lightning.pytorch.cli import ReduceLROnPlateau

    plateau = ReduceLROnPlateau(optimizer, monitor="loss")
    configured = LRSchedulerCLI.configure_optimizers(None, optimizer, plateau)
    assert configured["lr_scheduler"] == {"scheduler": plateau, "monitor": "loss"}
    assert LRSchedulerCLI.configure_optimizers(None, optimizer) is optimizer


def test_both_sections_at_once_are_refused():
    optimizer = ["--optimizer=SGD", "--optimizer.lr=0.1"]
    scheduler = ["--lr_scheduler=StepLR", "--lr_scheduler.step_size=2", "--scheduler", json.dumps(SECTION)]
    with pytest.raises(ValueError, match="already returns a scheduler"):
        run("fit", *optimizer, *scheduler, *QUIET, module=Regression)


def test_it_works_without_subcommands_and_with_a_trainer_class_of_ones_own():
    class Own(Trainer):
        """Somebody's Trainer."""

    cli = run("--scheduler", json.dumps(SECTION), *QUIET, run=False, trainer_class=Own)
    assert isinstance(cli.trainer, Own)
    cli.trainer.fit(cli.model)
    assert cli.model.seen[4][0] == pytest.approx(0.1)
    with pytest.raises(TypeError, match="trainer_class must be a class"):
        run(run=False, trainer_class=functools.partial(Own))


RANGE_TEST = ["lr_range_test", "--num_steps=150", "--max_lr=30", *QUIET]


def section_of(path: Any) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())["scheduler"]


def test_what_the_range_test_writes_fits_a_training_of_another_length(tmp_path):
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({"scheduler": SECTION}))
    cli = run(*RANGE_TEST, "--config=fit.yaml")
    assert not any(type(callback).__name__ == "LRRangeTestCallback" for callback in cli.trainer.callbacks)
    low = section_of(tmp_path / "scheduler.yaml")["params"]["cycle_min_lr"]
    trained = run("fit", "--config=fit.yaml", "--config=scheduler.yaml", *QUIET, "--trainer.max_epochs=4")
    lrs = [lr for lr, _ in trained.model.seen]
    assert len(lrs) == 40
    assert [lrs.index(max(lrs)), lrs[36]] == [12, pytest.approx(low)]  # 30 % up, 60 % down, and the last 10 % below


def test_the_range_test_leaves_out_a_schedule_among_the_callbacks_and_puts_it_back(tmp_path):
    callback = {"class_path": "lightning_lrsched.LRSchedulerCallback", "init_args": {"scheduler": SECTION}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    cli = run(*RANGE_TEST, "--config=own.yaml")
    assert section_of(tmp_path / "scheduler.yaml")["type"] == "OneCycle"
    assert [type(callback).__name__ for callback in cli.trainer.callbacks].count("LRSchedulerCallback") == 1


def test_the_range_test_can_write_a_warmup_of_a_given_length_into_a_new_folder(tmp_path):
    run(*RANGE_TEST, "--schedule=WarmupDecayLR", "--total_num_steps=30", "--output=new/folder/w.yaml")
    section = section_of(tmp_path / "new" / "folder" / "w.yaml")
    assert (section["type"], section["params"]["total_num_steps"]) == ("WarmupDecayLR", 30)


def test_a_full_disk_leaves_the_earlier_file(tmp_path, request):
    (tmp_path / "scheduler.yaml").write_text("earlier")
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="No space left"):
        run(*RANGE_TEST)
    assert (tmp_path / "scheduler.yaml").read_bytes() == b"earlier"


NOTHING = "there is no section scheduler"


def test_a_training_without_a_schedule_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    own = {"trainer": {"callbacks": [{"class_path": "lightning_lrsched.LRSchedulerCallback",
                                      "init_args": {"scheduler": SECTION}}]}}  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    lightnings = ["--optimizer=SGD", "--optimizer.lr=0.1", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=2"]
    for arguments, module, said in (
        ([], Plain, True),
        (["--config=own.yaml"], Plain, False),
        ([f"--scheduler={json.dumps(SECTION)}"], Plain, False),
        (lightnings, Regression, False),
    ):
        caplog.clear()
        run("fit", *arguments, *QUIET, module=module)
        assert (NOTHING in caplog.text) == said, arguments


def test_a_single_value_of_a_file_is_changed_on_the_command_line(tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"scheduler": SECTION}))
    cli = run("fit", "--config=s.yaml", "--scheduler.params.warmup_max_lr=0.2", *QUIET)
    assert cli.model.seen[4][0] == pytest.approx(0.2)


def test_without_jsonargparse_the_message_says_what_to_install(monkeypatch):
    import importlib
    import importlib.util
    import sys

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "lightning_lrsched.cli")
    with pytest.raises(ImportError, match=r"pip install 'jsonargparse\[signatures\]'"):
        importlib.import_module("lightning_lrsched.cli")
