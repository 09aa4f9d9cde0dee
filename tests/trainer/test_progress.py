"""Schedules that count samples or tokens: what advances them, how long a run is, what is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, TensorDataset

from lightning_lrsched import LRSchedulerCallback, SchedulerConfig, WarmupLR, configure_optimizers
from lightning_lrsched.preview import ConfigFile
from lightning_lrsched.trainer.progress import samples_in
from lightning_lrsched.trainer.protocol import repeats_last_batch
from tests.kit.modules import Regression, TwoOptimizers, read_csv
from tests.kit.runs import Save
from tests.kit.schedules import sgd

EXACT = {"rel": 1e-12, "abs": 0.0}
DECAY = {"warmup_max_lr": 0.1, "warmup_num_steps": 40, "warmup_type": "linear", "total_num_steps": 231}
SAMPLES = {"type": "WarmupDecayLR", "unit": "sample", "params": DECAY}
AUTO = {**SAMPLES, "params": {**DECAY, "total_num_steps": "auto", "warmup_num_steps": "1ep"}}
TOKENS = {**SAMPLES, "unit": "token"}

pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")


def samples(number: int = 77, batch_size: int = 8, **options: Any) -> DataLoader:
    """77 samples are nine batches of 8 and one of 5."""
    inputs = torch.randn(number, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size, **options)


def lr_at(position: int, section: dict[str, Any] = SAMPLES) -> float:
    return SchedulerConfig.of(section).build(sgd()).lr_at(position)[0]


def lrs(module: Any) -> list[float]:
    return [lr for lr, _ in module.seen]


def fit(make_trainer: Any, section: Any = SAMPLES, loader: Any = None, module: Any = None, **options: Any) -> Any:
    """Train a fresh module; its ``schedule`` is what trained it."""
    module, ckpt_path = module or Regression(), options.pop("ckpt_path", None)
    callbacks, tokens = options.pop("callbacks", []), options.pop("tokens", None)
    callback = LRSchedulerCallback(section, tokens=tokens)
    make_trainer(callback, *callbacks, **options).fit(
        module, samples() if loader is None else loader, ckpt_path=ckpt_path
    )
    module.schedules = callback.schedulers
    module.schedule = callback.schedulers[0]
    return module


# What advances it ----------------------------------------------------------------------------------------------------


def test_each_step_is_made_at_the_number_of_samples_of_the_steps_before(make_trainer):
    module = fit(make_trainer)
    consumed = [77 * epoch + 8 * batch for epoch in range(3) for batch in range(10)]
    assert lrs(module) == pytest.approx([lr_at(position) for position in consumed], **EXACT)
    assert module.schedule.last_epoch == 231


def test_all_batches_of_an_accumulated_step_count_also_where_it_is_not_full(make_trainer):
    module = fit(make_trainer, accumulate_grad_batches=3)
    consumed = [77 * epoch + 24 * step for epoch in range(3) for step in range(4)]
    assert lrs(module) == pytest.approx([lr_at(position) for position in consumed], **EXACT)


def test_auto_fractions_and_epochs_count_samples_too(make_trainer):
    section = {"type": "PhasedLR", "unit": "sample"}
    phases = [{"steps": "1ep", "lr": 0.1}, {"steps": 0.5}, {"steps": 50, "lr": 0}]
    module = fit(make_trainer, {**section, "params": {"phases": phases}}, max_steps=25)
    # two epochs of 77 and five batches of 8
    assert [phase["steps"] for phase in module.schedule.hyperparameters["phases"]] == [77, round(0.5 * 194), 50]
    assert fit(make_trainer, AUTO).schedule.hyperparameters["total_num_steps"] == 231


def test_tokens_are_a_number_for_each_sample(make_trainer):
    module = fit(make_trainer, {**AUTO, "unit": "token"}, tokens=512)
    assert module.schedule.last_epoch == 512 * 231
    assert module.schedule.hyperparameters["total_num_steps"] == 512 * 231
    assert module.schedule.hyperparameters["warmup_num_steps"] == 512 * 77


def test_tokens_are_what_a_function_says_of_a_batch(make_trainer):
    seen: list[int] = []

    def tokens(batch: list[Tensor]) -> Tensor:
        seen.append(int((batch[0] > 0).sum()))
        return (batch[0] > 0).sum()

    module = fit(make_trainer, TOKENS, tokens=tokens)
    consumed = [sum(seen[:step]) for step in range(30)]
    assert len(set(seen)) > 5
    assert lrs(module) == pytest.approx([lr_at(position) for position in consumed], **EXACT)


class Skipping(Regression):
    """Does not step on every fourth batch, as under a gradient scaler that has found an infinite gradient."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
        if batch_idx % 4 == 1:
            optimizer_closure()
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)


def test_the_samples_of_a_skipped_step_count_with_the_next(make_trainer):
    module = fit(make_trainer, module=Skipping(), max_epochs=1)
    positions = [0, 8, 24, 32, 40, 56, 64]
    assert lrs(module) == pytest.approx([lr_at(position) for position in positions], **EXACT)
    assert module.schedule.last_epoch == 72  # the last batch was skipped


def test_under_manual_optimization_each_schedule_has_what_its_own_optimizers_steps_have_consumed(make_trainer):
    steps = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}
    module = TwoOptimizers()
    fitted = fit(make_trainer, [SAMPLES, {**SAMPLES, "unit": "token"}], module=module, tokens=10, max_epochs=1)
    assert [schedule.last_epoch for schedule in fitted.schedules] == [77, 770]  # the tenth batch steps both
    fitted = fit(make_trainer, [SAMPLES, steps], module=TwoOptimizers(), max_epochs=1, limit_train_batches=9)
    assert [schedule.last_epoch for schedule in fitted.schedules] == [72, 3]
    fitted = fit(make_trainer, [steps, SAMPLES], module=TwoOptimizers(), max_epochs=1, limit_train_batches=9)
    assert [schedule.last_epoch for schedule in fitted.schedules] == [9, 56]


class TwoLoaders(Regression):
    """Trained with a dictionary of two loaders' batches."""

    def training_step(self, batch: dict[str, list[Tensor]], batch_idx: int) -> Tensor:
        return self.loss(batch["a"]) + self.loss(batch["b"])


def test_of_several_loaders_all_samples_count(make_trainer):
    loaders = {"a": samples(), "b": samples(20, 4)}  # ten batches, and five that come twice
    assert fit(make_trainer, loader=loaders, module=TwoLoaders(), max_epochs=1).schedule.last_epoch == 77 + 40
    with pytest.raises(ValueError, match=r"total_num_steps='auto' needs .* batches of several loaders are not known"):
        fit(make_trainer, AUTO, loader=loaders, module=TwoLoaders())


@pytest.mark.parametrize(
    ("batch", "loaders", "number"),
    [
        (torch.zeros(3, 2), None, 3),
        ({"x": torch.zeros(4), "names": ["a"], "nested": (torch.zeros(4, 1), 7), "scale": torch.tensor(1.0)}, None, 4),
        ({"a": torch.zeros(2), "b": [torch.zeros(5)]}, {"a": None, "b": None}, 7),
        ([torch.zeros(2), None], [None, None], 2),
    ],
)
def test_the_samples_of_a_batch_are_the_first_dimension_of_its_tensors(batch, loaders, number):
    assert samples_in(batch, loaders) == number


def test_a_range_test_inside_the_fit_does_not_count(make_trainer):
    section = {**AUTO, "params": {**AUTO["params"], "warmup_max_lr": "lr_range_test"}}
    module = fit(make_trainer, section)
    schedule = module.schedule
    consumed = [77 * epoch + 8 * batch for epoch in range(3) for batch in range(10)]
    assert schedule.last_epoch == schedule.hyperparameters["total_num_steps"] == 231
    assert lrs(module)[-30:] == pytest.approx([schedule.lr_at(position)[0] for position in consumed], **EXACT)


# Resumes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "then"), [((8, 1), (4, 1)), ((4, 1), (8, 1)), ((8, 2), (4, 3)), ((4, 3), (8, 2))])
@pytest.mark.parametrize("section", [SAMPLES, AUTO])
def test_another_batch_size_or_accumulation_after_a_resume_leaves_the_lr_of_each_sample(
    make_trainer, tmp_path, first, then, section
):
    path = tmp_path / "saved.ckpt"
    fit(make_trainer, section, samples(80, first[0]), accumulate_grad_batches=first[1], callbacks=[Save(path)])
    resumed = fit(make_trainer, section, samples(80, then[0]), accumulate_grad_batches=then[1], ckpt_path=path)
    size = then[0] * then[1]
    consumed = [80 * epoch + begin for epoch in (1, 2) for begin in range(0, 80, size)]
    whole = (
        {**AUTO, "params": {**DECAY, "total_num_steps": 240, "warmup_num_steps": 80}} if section is AUTO else SAMPLES
    )
    assert lrs(resumed) == pytest.approx([lr_at(position, whole) for position in consumed], **EXACT)
    assert resumed.schedule.last_epoch == 240


@pytest.mark.parametrize("section", [SAMPLES, AUTO])
@pytest.mark.parametrize("saved_at", [1, 10, 14, 29])
def test_preview_training_and_a_resume_have_the_same_lrs(make_trainer, tmp_path, section, saved_at, write):
    path = tmp_path / "saved.ckpt"
    whole = fit(make_trainer, section, callbacks=[Save(path, saved_at)])
    consumed = [77 * epoch + 8 * batch for epoch in range(3) for batch in range(10)]
    file = ConfigFile.read(write(section), steps=231, steps_per_epoch=77)
    assert lrs(whole) == pytest.approx([values["lr"][0] for _, values in file.rows(consumed)], **EXACT)
    if repeats_last_batch(whole.trainer):
        pytest.skip("this Lightning makes the batch after which it was saved once more")
    resumed = fit(make_trainer, section, ckpt_path=path)
    assert resumed.schedule.hyperparameters == whole.schedule.hyperparameters
    # An ordinary loader begins anew: its batches of 8 come first, and those that the epoch still lacks are fewer.
    done = saved_at % 10
    of_epoch = [8 * batch for batch in range(10 - done)]
    begin = consumed[saved_at]
    rest = [begin + position for position in of_epoch]
    ends = begin + 8 * (10 - done) - (3 if done == 0 else 0)
    rest += [ends + 77 * epoch + 8 * batch for epoch in range(2 - saved_at // 10) for batch in range(10)]
    assert lrs(resumed) == pytest.approx([whole.schedule.lr_at(position)[0] for position in rest], **EXACT)


def test_a_resume_in_another_unit_is_refused(make_trainer, tmp_path):
    path = tmp_path / "saved.ckpt"
    fit(make_trainer, callbacks=[Save(path)])
    message = r'WarmupDecayLR: the saved position counts samples, .* now counts tokens: .* go on with "unit": "sample"'
    with pytest.raises(ValueError, match=message):
        fit(make_trainer, TOKENS, tokens=3, ckpt_path=path)
    with pytest.raises(ValueError, match="the saved position counts samples, and the schedule now counts steps"):
        fit(make_trainer, {**SAMPLES, "unit": "step"}, ckpt_path=path)


def test_a_checkpoint_without_the_schedule_does_not_hold_the_samples(make_trainer, tmp_path):
    path = tmp_path / "saved.ckpt"
    trainer = make_trainer(Save(path))
    trainer.fit(Regression(), samples())
    with pytest.raises(ValueError, match="does not hold how many samples that optimizer has been trained with; give"):
        fit(make_trainer, ckpt_path=path)
    given = {**SAMPLES, "params": {**DECAY, "last_batch_iteration": 76}}
    assert lrs(fit(make_trainer, given, ckpt_path=path))[:2] == pytest.approx([lr_at(77), lr_at(85)], **EXACT)


def test_a_second_fit_begins_anew_and_is_as_long_as_that_fit(make_trainer):
    callback, module = LRSchedulerCallback(AUTO), Regression()
    trainer = make_trainer(callback, max_epochs=2)
    trainer.fit(module, samples())
    trainer.fit_loop.max_epochs = 5
    trainer.fit(module, samples())
    assert callback.schedulers[0].last_epoch == 3 * 77
    assert callback.schedulers[0].hyperparameters["total_num_steps"] == 3 * 77


# What the logger and the log have ------------------------------------------------------------------------------------


def test_the_curves_are_over_optimizer_steps_and_the_position_is_one_of_them(make_trainer, tmp_path):
    path, logger = tmp_path / "saved.ckpt", CSVLogger(tmp_path)
    module = fit(make_trainer, logger=logger, log_every_n_steps=1, callbacks=[Save(path, 14)])
    curves = read_csv(logger)
    assert curves["lr-SGD"] == {step: pytest.approx(lr) for step, lr in enumerate(lrs(module))}
    assert curves["lr-SGD-samples"] == {step: 77 * (step // 10) + 8 * (step % 10) for step in range(30)}
    logger = CSVLogger(tmp_path, version=1)
    resumed = fit(make_trainer, logger=logger, log_every_n_steps=1, ckpt_path=path)
    assert read_csv(logger)["lr-SGD"] == {14 + step: pytest.approx(lr) for step, lr in enumerate(lrs(resumed))}


def test_the_log_names_the_unit(make_trainer, caplog):
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        fit(make_trainer, AUTO, max_epochs=4)
        fit(make_trainer, max_epochs=1)
        fit(make_trainer, max_epochs=8)
    assert "WarmupDecayLR [samples] | as written | in this run" in caplog.text
    assert "the run ends at sample 77, the schedule only at sample 231 (total_num_steps)" in caplog.text
    assert "the schedule ends at sample 231 (total_num_steps), the run only at sample 616: the last 385" in caplog.text


# The length of the run -----------------------------------------------------------------------------------------------


class Buckets(BatchSampler):
    """Batches of its own making: nobody knows what they hold."""


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(samples().dataset)


@pytest.mark.parametrize(
    ("loader", "options", "total"),
    [
        (samples(drop_last=True), {}, 3 * 72),
        (samples(), {"limit_train_batches": 4}, 3 * 32),
        (DataLoader(samples().dataset, batch_sampler=BatchSampler(range(77), 8, False)), {}, 231),
        (samples(), {"max_steps": 7, "accumulate_grad_batches": 4}, 2 * 77 + 32),
        (DataLoader(Stream(), 8), {"max_steps": 7, "max_epochs": -1, "limit_train_batches": 5}, 7 * 8),
        (DataLoader(Stream(), 8), {"max_steps": 7, "accumulate_grad_batches": 2, "max_epochs": -1}, 7 * 16),
    ],
)
def test_a_run_is_as_long_as_the_samples_that_it_takes(make_trainer, loader, options, total):
    section = {**AUTO, "params": {**DECAY, "total_num_steps": "auto"}}
    assert fit(make_trainer, section, loader, **options).schedule.hyperparameters["total_num_steps"] == total


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loader": DataLoader(samples().dataset, batch_sampler=Buckets(range(77), 8, False))},
         "of this DataLoader are not known; write a number of samples"),
        ({"loader": DataLoader(Stream(), 8)}, "has no length and .* no max_steps.*or write a number of samples"),
        ({"max_epochs": -1}, "max_epochs=-1 and no max_steps.*or write a number of samples"),
        ({"section": {**AUTO, "unit": "token"}, "tokens": lambda batch: 8}, "by a function; write a number of tokens"),
    ],
)  # fmt: skip
def test_a_length_that_cannot_be_known_is_refused(make_trainer, options, message):
    section = {**options.pop("section", AUTO), "params": {**DECAY, "total_num_steps": "auto"}}
    with pytest.raises(ValueError, match=rf"^scheduler\.params\.total_num_steps='auto' needs to know .*{message}"):
        fit(make_trainer, section, **options)


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (["a", "b"], r"^scheduler\.unit=\"sample\" counts the first dimension .* in this list there are none: write"),
        ([torch.zeros(2), torch.zeros(3)], r"their first dimensions differ \(2, 3\): write \"unit\": \"token\" and"),
    ],
)
def test_a_batch_whose_samples_cannot_be_seen_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        samples_in(batch)


def test_tokens_on_a_device_are_refused_for_reading_them_would_make_every_step_wait(make_trainer):
    with pytest.raises(ValueError, match="returned a tensor on meta, and reading it would make every step wait"):
        fit(make_trainer, TOKENS, tokens=lambda batch: torch.zeros((), device="meta"))


@pytest.mark.parametrize("tokens", [-1, 2.5, "many"])
def test_a_count_that_is_no_whole_number_is_refused(make_trainer, tokens):
    with pytest.raises((ValueError, TypeError), match=r"^tokens must be a whole number, at least 0, got"):
        fit(make_trainer, TOKENS, tokens=lambda batch: tokens)
    with pytest.raises((ValueError, TypeError), match=r"^tokens must be a whole number, at least 1, got"):
        LRSchedulerCallback(TOKENS, tokens=tokens)


def test_tokens_belong_to_their_unit():
    with pytest.raises(
        ValueError, match=r'^tokens is missing: "unit": "token" needs a number per sample, or a function'
    ):
        LRSchedulerCallback(TOKENS)
    with pytest.raises(ValueError, match=r"^tokens: no schedule counts tokens"):
        LRSchedulerCallback(SAMPLES, tokens=4)
    with pytest.raises(ValueError, match=r"^tokens: no schedule counts tokens"):
        LRSchedulerCallback(tokens=4)


def test_who_does_not_see_the_batches_refuses_the_unit():
    optimizer = sgd()
    with pytest.raises(
        ValueError, match=r'^scheduler\.unit="sample" needs LRSchedulerCallback, which sees the batches'
    ):
        configure_optimizers(optimizer, SAMPLES)
    with pytest.raises(
        ValueError, match=r'^scheduler\.unit="sample": follow=True counts optimizer steps; call follow_'
    ):
        SchedulerConfig.of(SAMPLES).build(optimizer, follow=True)
    assert "initial_lr" not in optimizer.param_groups[0]


def test_several_processes_need_a_way_to_sum(make_trainer, monkeypatch):
    module = Regression()
    trainer = make_trainer(LRSchedulerCallback(SAMPLES))
    monkeypatch.setattr(type(trainer), "world_size", 2)
    with pytest.raises(ValueError, match=r'of 2 processes are summed by torch\.distributed.* write "unit": "step"'):
        trainer.fit(module, samples())


# In a loop of one's own ----------------------------------------------------------------------------------------------


def test_a_plain_loop_says_what_a_step_took_or_where_it_is():
    schedule: Any = SchedulerConfig.of(AUTO).build(sgd(), total_steps=231, steps_per_epoch=77)
    assert isinstance(schedule.hyperparameters["total_num_steps"], int)
    for call in (schedule.step, schedule.follow_optimizer):
        with pytest.raises(
            ValueError, match=r"^WarmupDecayLR counts samples, and a step of the optimizer does not say"
        ):
            call()
    schedule.optimizer.step()
    schedule.step(8)
    assert schedule.get_last_lr() == schedule.lr_at(8)
    schedule.follow_optimizer(lambda: 5)
    schedule.optimizer.step()
    schedule.step()
    assert schedule.last_epoch == 13
    assert schedule.get_last_lr() == schedule.lr_at(13)


def test_a_position_is_restored_in_its_unit_only():
    schedule: Any = SchedulerConfig.of(SAMPLES).build(sgd())
    schedule.step(24)
    again: Any = SchedulerConfig.of(SAMPLES).build(sgd())
    again.load_state_dict(schedule.state_dict())
    assert (again.last_epoch, again.get_last_lr()) == (24, schedule.lr_at(24))
    with pytest.raises(ValueError, match="the saved position counts samples, and the schedule now counts steps"):
        WarmupLR(sgd(), warmup_max_lr=0.1).load_state_dict(schedule.state_dict())
    with pytest.raises(ValueError, match="the saved position counts steps, and the schedule now counts samples"):
        again.load_state_dict({"last_batch_iteration": 4})
