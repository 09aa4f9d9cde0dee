"""What real configuration files hold: a small case of each surprise, and the collection itself where it is at hand."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch

from lightning_lrsched import VALID_LR_SCHEDULES, SchedulerConfig, configure_optimizers
from lightning_lrsched.preview import ConfigFile
from lightning_lrsched.schedules.length import Horizon

COLLECTION = Path(os.environ.get("LRSCHED_CONFIGS", Path(__file__).parents[2] / ".." / "shared" / "configs"))
RUN = Horizon(total=1000, per_epoch=100)

# name of the file, its text, and what is expected: the type that is built (None: only an optimizer), or the complaint
GOOD = [
    ("only-an-optimizer.json", '{"optimizer": {"type": "Adam", "params": {"lr": 1e-4}}}', None),
    ("no-params.json", '{"optimizer": {"type": "Adam"}, "zero_optimization": true}', None),
    (
        "auto-and-numbers.json",
        """{"optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto"}},
            "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": 0, "warmup_max_lr": "auto",
              "warmup_num_steps": "auto", "total_num_steps": "auto"}},
            "train_batch_size": "auto", "gradient_clipping": "auto"}""",
        "WarmupDecayLR",
    ),
    (
        "numbers-as-strings.yaml",
        """deepspeed:
  optimizer: {type: AdamW, params: {lr: 0.00001, betas: [0.9, 0.95], eps: 1e-8, weight_decay: "1e-4"}}
  scheduler: {type: WarmupLR, params: {warmup_max_lr: 1e-5, warmup_num_steps: "100"}}
""",
        "WarmupLR",
    ),
    (
        "comments-and-commas.json",
        """{ # a comment
            "scheduler": {"type": "WarmupDecayLR", // another
              "params": {"warmup_max_lr": 3e-4, "total_num_steps": 100000, /* and another */ },
            },
            "optimizer": {"type": "AdamW", "params": {"lr": 3e-4,},},
        }""",
        "WarmupDecayLR",
    ),
    (
        "no-warmup.json",
        """{"scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": 0, "total_num_steps": 20000}},
            "optimizer": {"type": "Adam", "params": {"lr": 5e-5, "adam_w_mode": true, "torch_adam": true}}}""",
        "WarmupCosineLR",
    ),
    (
        "position.json",
        """{"optimizer": {"type": "SGD", "params": {"lr": 0.1}}, "scheduler": {"type": "WarmupLR",
            "params": {"last_batch_iteration": -1, "warmup_max_lr": 3e-5, "warmup_num_steps": 100}}}""",
        "WarmupLR",
    ),
    (
        "torch-scheduler.json",
        """{"optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}, "fp16": {
              "enabled": True
            },
            "scheduler": {"type": "CosineAnnealingLR", "params": {"eta_min": 1e-5, "T_max": 500000,}}}""",
        "CosineAnnealingLR",
    ),
    (
        "muon.json",
        '{"optimizer": {"type": "Muon", "params": {"lr": 0.02, "momentum": 0.9}}}',
        None,
    ),
]
BAD = [
    (
        "inverted.json",
        '{"scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 1e-4, "cycle_max_lr": 1e-6}}}',
        "scheduler.params.cycle_min_lr must not be greater than cycle_max_lr",
    ),
    (
        "clipping.json",
        '{"optimizer": {"type": "Adam", "params": {"lr": 1e-4, "max_grad_norm": 1.0}}}',
        "optimizer.params.max_grad_norm: gradient clipping",
    ),
    ("placeholder.json", '{"zero_optimization": {"stage": ${stage}}}', "not valid JSON"),
    ("nothing.json", '{"train_batch_size": 8}', "scheduler is missing; the configuration has the keys"),
]
"""One of each kind: other mistakes are in ``config/test_scheduler_config.py`` and ``config/test_optimizers.py``."""


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(2, 2, bias=False)
        self.lr = 0.01


@pytest.mark.parametrize(("name", "text", "expected"), GOOD, ids=[name for name, *_ in GOOD])
def test_a_good_file_builds_and_steps(tmp_path, name, text, expected):
    if "Muon" in text and not hasattr(torch.optim, "Muon"):
        pytest.skip("needs a newer torch: this one has no Muon")
    path = tmp_path / name
    path.write_text(text)
    ConfigFile.read(path).check()
    net = Net()
    configured = configure_optimizers(net, path, trainer=RUN)
    net.net(torch.ones(1, 2)).sum().backward()
    for _ in range(3):
        configured["optimizer"].step()
        if expected is not None:
            configured["lr_scheduler"]["scheduler"].step()
    assert expected is None or configured["lr_scheduler"]["scheduler"].name == expected
    assert ("lr_scheduler" in configured) == (expected is not None)


@pytest.mark.parametrize(("name", "text", "complaint"), BAD, ids=[name for name, *_ in BAD])
def test_a_bad_file_gives_one_clear_error(tmp_path, name, text, complaint):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises((TypeError, ValueError)) as error:
        configure_optimizers(Net(), path, trainer=RUN)
    assert str(error.value).startswith(f"{path}: {complaint}")
    assert "\n" not in str(error.value)


def collection() -> list[Path]:
    return sorted(path for path in COLLECTION.glob("*") if path.suffix in (".json", ".yml", ".yaml"))


@pytest.mark.skipif(not collection(), reason=f"no collection of real files in {COLLECTION} (set LRSCHED_CONFIGS)")
def test_every_file_of_the_collection_builds_or_gives_one_clear_error():
    outcomes: dict[str, list[str]] = {"built": [], "optimizer only": [], "refused": []}
    for path in collection():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome, told = try_out(path)
        if "torch.optim has no 'Muon'" in told and not hasattr(torch.optim, "Muon"):
            outcome = "optimizer only"  # what it is where torch has this optimizer
        outcomes[outcome].append(f"{path.name}: {told}")
        assert "\n" not in told, path
        assert any(word in told for word in ("scheduler", "optimizer", "not valid")), path
    assert {key: len(found) for key, found in outcomes.items()} == EXPECTED, "\n".join(outcomes["refused"])


def optimizer_for(schedule: SchedulerConfig) -> torch.optim.Optimizer:
    of_torch = schedule.type not in VALID_LR_SCHEDULES  # there, a list is no list of groups
    lists = [] if of_torch else [value for value in schedule.params.values() if isinstance(value, (list, tuple))]
    groups = max(map(len, lists), default=1)
    return torch.optim.AdamW([{"params": [torch.zeros(1)]} for _ in range(groups)], lr=0.01)


def try_out(path: Path) -> tuple[str, str]:
    """Build the schedule of a file and let it take some steps; return what came of it."""
    try:
        file = ConfigFile.read(path, steps=1000, steps_per_epoch=100, base_lr=0.01)
        told = "; ".join(file.check())
        if file.sections.scheduler is None:
            return "optimizer only", told
        schedule = file.schedule().build(optimizer_for(file.schedule()), file.horizon)
        for _ in range(20):
            schedule.optimizer.step()
            schedule.step()
    except (TypeError, ValueError) as error:
        return "refused", str(error)
    return "built", told


EXPECTED = {"built": 44, "optimizer only": 36, "refused": 26}
"""A change of these numbers is a change of what users may bring: look at the files that moved."""
