"""What loggers and the terminal show of a range test."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import fsspec
import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_lrsched import LRRangeTestCallback, RangeTestResult
from tests.kit.modules import Regression, Scripted, data, run


def both(result, name):
    """The values of the coarse and then of the fine sweep, as loggers get them: on one axis of steps."""
    offset = result.coarse.num_steps if name == "steps" else 0
    return [*getattr(result.coarse, name), *(value + offset for value in getattr(result, name))]


def test_tensorboard_shows_curves_figure_and_table(make_trainer, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    result = run(make_trainer, Regression(), trainer_options={"logger": logger})
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "tensors": 0}).Reload()
    steps = both(result, "steps")
    assert steps == list(range(result.coarse.num_steps + result.num_steps))
    for tag, name in (("loss", "losses"), ("smoothed_loss", "smoothed_losses"), ("lr", "lrs")):
        points = events.Scalars(f"lr_range_test/{tag}")
        assert [event.step for event in points] == steps
        assert [event.value for event in points] == pytest.approx(both(result, name), rel=1e-6)
    # TensorBoard's axes are linear: the lr of an exponential sweep would lie on the axis until its last steps.
    exponents = [event.value for event in events.Scalars("lr_range_test/log10_lr")]
    assert exponents == pytest.approx([math.log10(lr) for lr in both(result, "lrs")], rel=1e-6)
    assert [image.step for image in events.Images("lr_range_test/loss_vs_lr")] == [steps[-1]]
    [text] = events.Tensors("lr_range_test/result/text_summary")
    assert "cycle_max_lr" in text.tensor_proto.string_val[0].decode()


def test_a_logger_without_figures_gets_files_in_its_folder(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path)
    result = run(make_trainer, Regression(), trainer_options={"logger": logger})
    folder = Path(logger.log_dir)
    assert RangeTestResult.load(folder / "range_test.json") == result
    assert "suggested lr" in (folder / "range_test.md").read_text()
    assert (folder / "loss_vs_lr.png").stat().st_size > 1000


def test_a_folder_that_is_not_on_this_disk_gets_the_files_too(make_trainer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Remote(CSVLogger):
        log_dir = "memory://runs/version_0"

        def log_metrics(self, metrics, step=None):
            pass

        def save(self):
            pass

    run(make_trainer, Regression(), trainer_options={"logger": Remote(tmp_path)}, num_steps=30)
    names = {name.rpartition("/")[2] for name in fsspec.filesystem("memory").ls("/runs/version_0", detail=False)}
    assert names >= {"range_test.json", "range_test.md", "loss_vs_lr.png"}
    assert not [path for path in tmp_path.iterdir() if "memory" in path.name]


def test_the_progress_bar_shows_lr_and_smoothed_loss(make_trainer):
    shown = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            shown.append(dict(trainer.progress_bar_metrics))

    callback = LRRangeTestCallback(num_steps=10)
    make_trainer(callback, Look()).fit(Scripted(lambda step: 1.0), data())
    assert shown[5]["lr"] == callback.result.lrs[4]
    assert shown[5]["smoothed_loss"] == pytest.approx(1.0)


def test_log_false_shows_nothing(make_trainer, tmp_path):
    logger = CSVLogger(tmp_path)
    run(make_trainer, Regression(), trainer_options={"logger": logger}, log=False)
    assert not (Path(logger.log_dir) / "metrics.csv").exists()
    assert not (Path(logger.log_dir) / "range_test.json").exists()


class Minimal(Logger):
    """A logger as Lightning's documentation has it: no more than it must have."""

    def __init__(self, fail=False):
        super().__init__()
        self.metrics, self.fail = [], fail

    @property
    def name(self):
        return "minimal"

    @property
    def version(self):
        return 0

    def log_hyperparams(self, params):
        pass

    def log_metrics(self, metrics, step):
        if self.fail:
            raise OSError("disk full")
        self.metrics.append(step)


def test_a_minimal_logger_is_enough(make_trainer):
    logger = Minimal()
    result = run(make_trainer, Regression(), trainer_options={"logger": logger})
    assert logger.metrics == both(result, "steps")
    assert result.suggestion() > 0


def test_a_logger_that_fails_is_left_out_and_the_test_goes_on(make_trainer):
    good, bad = Minimal(), Minimal(fail=True)
    with pytest.warns(UserWarning, match=r"Minimal failed to log the LR range test \(OSError: disk full\)") as caught:
        result = run(make_trainer, Regression(), trainer_options={"logger": [bad, good]})
    assert len([one for one in caught if "failed to log" in str(one.message)]) == 1
    assert good.metrics == both(result, "steps")


class WandbLike(Minimal):
    """The methods of Lightning's WandbLogger that show a figure and a table, with its signatures."""

    def __init__(self):
        super().__init__()
        self.tables, self.images = {}, {}

    def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
        self.tables[key] = (columns, data)

    def log_image(self, key, images, step=None, **kwargs):
        assert isinstance(images, list)
        self.images[key] = images


def test_weights_and_biases_gets_the_figure_and_the_table(make_trainer):
    logger = WandbLike()
    result = run(make_trainer, Regression(), trainer_options={"logger": logger})
    columns, rows = logger.tables["lr_range_test/result"]
    assert all(len(row) == len(columns) == 2 for row in rows)
    assert dict(rows)["suggested lr"] == f"{result.suggestion():.4g}"
    [image] = logger.images["lr_range_test/loss_vs_lr"]
    assert image.size[0] > 300


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("WandbLogger.log_table", WandbLike.log_table), ("WandbLogger.log_image", WandbLike.log_image)],
)
def test_the_stand_in_takes_what_lightnings_logger_takes(theirs, ours):
    from lightning.pytorch.loggers import wandb

    method = getattr(wandb.WandbLogger, theirs.rsplit(".", maxsplit=1)[-1])
    assert list(inspect.signature(method).parameters) == list(inspect.signature(ours).parameters)


class MlflowClientLike:
    """The methods of mlflow.MlflowClient that store a figure and a text, with its signatures."""

    def __init__(self):
        self.stored = {}

    def log_text(self, run_id, text, artifact_file):
        self.stored[run_id, artifact_file] = text

    def log_figure(self, run_id, figure, artifact_file, *, save_kwargs=None):
        self.stored[run_id, artifact_file] = figure


class MlflowLike(Minimal):
    """Lightning's MLFlowLogger: the client and the id of the run."""

    run_id = "7"

    def __init__(self):
        super().__init__()
        self.experiment = MlflowClientLike()


def test_mlflow_gets_the_figure_and_the_table(make_trainer):
    logger = MlflowLike()
    result = run(make_trainer, Regression(), trainer_options={"logger": logger})
    stored = logger.experiment.stored
    assert stored["7", "lr_range_test/result.md"] == result.to_markdown()
    assert len(stored["7", "lr_range_test/loss_vs_lr.png"].axes) == 1


@pytest.fixture
def terminal(monkeypatch, capsys):
    """What is captured is a terminal."""
    monkeypatch.setattr("lightning_lrsched.trainer.loggers._is_seen", lambda: True)
    return capsys


def bar_of(make_trainer, terminal, module, **options):
    callback = LRRangeTestCallback(**options)
    trainer = make_trainer(callback, enable_progress_bar=True)
    trainer.fit(module, data())
    return terminal.readouterr().out


def test_in_a_file_there_is_no_bar(make_trainer, capsys):
    assert "it/s" not in bar_of(make_trainer, capsys, Scripted(lambda step: 1.0), num_steps=12)


def test_the_bar_is_named_and_ends_at_100_percent(make_trainer, terminal):
    shown = bar_of(make_trainer, terminal, Scripted(lambda step: 1.0), num_steps=25)
    last = shown.strip().splitlines()[-1].rsplit("\r", maxsplit=1)[-1]
    assert last.startswith("LR range test (num_steps): 100%")
    assert "25/25" in last
    assert "Epoch" not in shown


def test_the_bar_of_a_test_that_stopped_early_ends_too(make_trainer, terminal):
    module = Scripted(lambda step: math.nan if step == 12 else 1.0)
    shown = bar_of(make_trainer, terminal, module, num_steps=200)
    assert "LR range test (non-finite loss): 100%" in shown
    assert "13/13" in shown


def test_one_bar_counts_the_steps_of_both_sweeps(make_trainer, terminal):
    shown = bar_of(make_trainer, terminal, Scripted(lambda step: math.nan if step in (12, 40) else 1.0))
    assert " 0/300 " in shown
    assert "LR range test (non-finite loss): 100%" in shown
    assert " 41/41 " in shown


def test_without_a_progress_bar_the_terminal_shows_none(make_trainer, terminal):
    run(make_trainer, Scripted(lambda step: 1.0), num_steps=12)
    assert "LR range test" not in terminal.readouterr().out


def test_the_training_after_the_test_has_its_own_bar_again(make_trainer, capsys):
    callback = LRRangeTestCallback(num_steps=12)
    trainer = make_trainer(callback, enable_progress_bar=True)
    trainer.fit(Regression(), data())
    trainer.callbacks.remove(callback)
    trainer.fit(Regression(), data())
    assert "Epoch 2" in capsys.readouterr().out
