"""What each of two processes runs: training, resuming, an LR range test. Not a test; started by test_strategies.py.

LOCAL_RANK=0 NODE_RANK=0 WORLD_SIZE=2 MASTER_PORT=... python two_ranks.py ddp|fsdp2|fsdp FOLDER ACCELERATOR
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_lrsched import LRRangeTestCallback, LRSchedulerCallback, RangeTest, SchedulerConfig, configure_optimizers

STEPS = 8
HALF = 4
CONFIG = {
    "type": "OneCycle",
    "params": {"cycle_min_lr": 0.001, "cycle_max_lr": 0.01, "cycle_first_step_size": 3, "cycle_min_mom": 0.5},
}
ONE_EPOCH = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.01, "warmup_num_steps": "1ep"}}
SWEEP_LENGTH = 40
LONG = 60
EXPLODES_AT = 25


class Module(LightningModule):
    """Two layers and AdamW; notes lr and momentum of every step."""

    def __init__(self, sharded: bool = False, exploding_rank: int | None = None) -> None:
        super().__init__()
        self.sharded, self.exploding_rank = sharded, exploding_rank
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 1)
        self.seen: list[tuple[float, float]] = []
        self.kept: Any = None

    def configure_model(self) -> None:
        if self.sharded and not hasattr(next(self.parameters()), "to_local"):
            from torch.distributed.fsdp import fully_shard

            for layer in (self.first, self.second):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = (self.second(torch.relu(self.first(batch[0]))) - batch[1]).square().mean()
        return loss * (1e9 if self.exploding_rank == self.global_rank and batch_idx >= EXPLODES_AT else 1.0)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        (group,) = optimizer.param_groups
        self.seen.append((group["lr"], group["betas"][0]))

    def configure_optimizers(self) -> Any:
        self.kept = self.kept or torch.optim.AdamW(self.parameters(), lr=0.001)
        return self.kept


def make_trainer(*callbacks: Any, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(callbacks=list(callbacks), enable_model_summary=False, **{**quiet, **options})


def data(samples: int = 160) -> DataLoader:
    inputs = torch.randn(samples, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), 2)


def own_part(module: nn.Module, optimizer: Any = None) -> list[Tensor]:
    """This rank's copy, or shard, of the parameters and of the optimizer's state."""
    states = optimizer.state.values() if optimizer else ()
    tensors = [*module.parameters(), *(tensor for state in states for tensor in state.values())]
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return [tensor.detach().cpu().clone() for tensor in local]


def strategy_named(name: str) -> Any:
    if name == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False)
    if name == "fsdp":
        from lightning.pytorch.strategies import FSDPStrategy

        return FSDPStrategy(state_dict_type="full")
    return name


def shard(net: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh["data_parallel"])
    return net


def in_a_fabric_loop(name: str, accelerator: str) -> dict[str, Any]:
    """A schedule and a range test in a loop of one's own, with wrapped model and optimizer."""
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import FSDPStrategy, ModelParallelStrategy

    strategies = {
        "ddp": lambda: "ddp",
        "fsdp": FSDPStrategy,
        "fsdp2": lambda: ModelParallelStrategy(shard, data_parallel_size=2, tensor_parallel_size=1),
    }
    fabric = Fabric(accelerator=accelerator, devices=2, strategy=strategies[name]())
    fabric.launch()
    torch.manual_seed(1)
    model = fabric.setup(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)))
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=0.001))
    loader = fabric.setup_dataloaders(data())
    used: list[list[float]] = []

    def step(batch: list[Tensor]) -> Tensor:
        loss = (model(batch[0]) - batch[1]).square().mean()
        fabric.backward(loss)
        used.append([optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]])
        optimizer.step()
        optimizer.zero_grad()
        return loss

    schedule = SchedulerConfig.of(CONFIG).build(optimizer, follow=True)
    for _, batch in zip(range(STEPS), loader, strict=False):
        step(batch)
    schedule.unfollow_optimizer()
    found: dict[str, Any] = {"used": list(used), "position": schedule.last_epoch}
    before = own_part(model, optimizer)
    with torch.no_grad():
        model(next(iter(loader))[0])  # after which FSDP2 holds gathered parameters
    with RangeTest(model, optimizer, max_lr=0.01, num_steps=SWEEP_LENGTH) as test:
        for number, batch in enumerate(test.batches(loader)):
            test.record(step(batch) * (1e9 if fabric.global_rank == 1 and number >= EXPLODES_AT else 1.0))
    found["changed"] = not all(map(torch.equal, before, own_part(model, optimizer)))
    found["range test"] = [str(test.result.stop_reason), test.result.steps, test.result.losses]
    found["lrs"] = [lr for lr, _ in used[STEPS:]] == test.result.lrs
    return found


class Manual(Module):
    """Steps by hand, on every second batch."""

    automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx))
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()


class Skipping(Module):
    """Skips every third step, as a gradient scaler does: the optimizer is not called."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
        if batch_idx % 3 == 1:
            optimizer_closure()
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)


class Helped(Module):
    """Its own configure_optimizers makes the schedule."""

    def configure_optimizers(self) -> Any:
        return configure_optimizers(super().configure_optimizers(), CONFIG)


def variants(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the steps of other kinds of training run with, and how many there were."""
    found = {}
    for variant, (module_class, accumulate) in {
        "accumulation": (Module, 3),
        "manual": (Manual, 1),
        "skipped": (Skipping, 1),
        "helper": (Helped, 1),
        "helper, accumulation": (Helped, 3),
    }.items():
        module = module_class(name == "fsdp2")
        callbacks = [] if module_class is Helped else [LRSchedulerCallback(CONFIG)]
        limit = {**options, "max_epochs": 1, "limit_train_batches": 16}
        trainer = make_trainer(*callbacks, strategy=strategy_named(name), accumulate_grad_batches=accumulate, **limit)
        trainer.fit(module, data())
        found[variant] = module.seen
    return found


def two_sweeps(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """A range test without a range, of a module whose optimizer has a state; where each of its sweeps begins."""

    parts: list[list[Tensor]] = []  # not of the callback, whose attributes are put back

    class Begins(Callback):
        lr = float("inf")

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            lr = pl_module.kept.param_groups[0]["lr"]
            if lr < self.lr:
                parts.append(own_part(pl_module, pl_module.kept))
            self.lr = lr

    module = Module(name == "fsdp2")
    make_trainer(strategy=strategy_named(name), **{**options, "max_epochs": 1}).fit(module, data())
    trained, test = own_part(module, module.kept), LRRangeTestCallback()
    make_trainer(test, Begins(), strategy=strategy_named(name), **options).fit(module, data())
    parts.append(own_part(module, module.kept))
    return {
        "steps": [test.result.coarse.steps, test.result.steps],
        "losses": [test.result.coarse.losses, test.result.losses],
        "restored": [len(part) == len(trained) and all(map(torch.equal, trained, part)) for part in parts],
    }


def one_line(
    name: str, folder: Path, options: dict[str, Any], callback: LRSchedulerCallback, ckpt_path: Path | None = None
) -> dict[str, Any]:
    """A fit that finds the learning rates first, by a probe or a range test; it saves a checkpoint."""

    class Look(Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.before = own_part(pl_module)

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.restored = all(map(torch.equal, self.before, own_part(pl_module)))

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == LONG // 2:
                trainer.save_checkpoint(folder / "tested.ckpt")

    module, look = Module(name == "fsdp2"), Look()
    trainer = make_trainer(callback, look, strategy=strategy_named(name), max_steps=LONG, **options)
    trainer.fit(module, data(), ckpt_path=ckpt_path)
    schedule = callback.schedulers[0]
    result = {**callback.range_test_results, **callback.probe_results}[0]
    return {
        "used": module.seen,
        "expected": [[schedule.lr_at(step)[0], 0.9] for step in range(LONG)],
        "position": schedule.last_epoch,
        "found": [type(result).__name__, result.losses, result.learning_rates()],
        "peak": max(schedule.lr_at(step)[0] for step in range(LONG)),
        "restored": look.restored,
    }


def main(name: str, folder: Path, accelerator: str) -> None:
    sharded = name == "fsdp2"
    options = {"accelerator": accelerator, "devices": 2, "max_epochs": -1}
    found: dict[str, Any] = {}

    module, callback = Module(sharded), LRSchedulerCallback(CONFIG)
    trainer = make_trainer(callback, strategy=strategy_named(name), max_steps=HALF, **options)
    trainer.fit(module, data())
    found["first half"] = module.seen
    trainer.save_checkpoint(folder / "two.ckpt")

    module, callback = Module(sharded), LRSchedulerCallback(CONFIG)
    trainer = make_trainer(callback, strategy=strategy_named(name), max_steps=STEPS, **options)
    trainer.fit(module, data(), ckpt_path=folder / "one.ckpt")
    found["resumed from one process"] = module.seen
    found["position"] = callback.schedulers[0].last_epoch

    module, callback = Module(sharded), LRSchedulerCallback(CONFIG)
    trainer = make_trainer(callback, strategy=strategy_named(name), max_steps=STEPS, **options)
    trainer.fit(module, data(), ckpt_path=folder / "two.ckpt")
    found["resumed from two processes"] = list(module.seen)
    trained = own_part(module, module.kept)
    range_test = LRRangeTestCallback(max_lr=1.0, num_steps=12)
    make_trainer(range_test, strategy=strategy_named(name), **options).fit(module, data())
    after = own_part(module, module.kept)
    found["range test of a trained module"] = {
        "steps": range_test.result.steps,
        "tensors": len(after),
        "restored": len(after) == len(trained) and all(map(torch.equal, trained, after)),
        "sharded": [hasattr(value, "to_local") for state in module.kept.state.values() for value in state.values()],
    }

    module, callback = Module(sharded), LRSchedulerCallback(ONE_EPOCH)
    trainer = make_trainer(
        callback, strategy=strategy_named(name), max_steps=HALF, use_distributed_sampler=False, **options
    )
    trainer.fit(module, data(160 if trainer.global_rank else 120))
    found["batches of the loader"] = trainer.num_training_batches
    found["warmup of one epoch"] = callback.schedulers[0].hyperparameters["warmup_num_steps"]

    module = Module(sharded, exploding_rank=1)
    before: list[Tensor] = []

    class Look(LRRangeTestCallback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            before.extend(own_part(pl_module))
            super().on_fit_start(trainer, pl_module)

    range_test = Look(max_lr=0.01, num_steps=SWEEP_LENGTH)
    trainer = make_trainer(range_test, strategy=strategy_named(name), **options)
    trainer.fit(module, data())
    found["range test"] = {
        "stop_reason": range_test.result.stop_reason,
        "steps": range_test.result.steps,
        "losses": range_test.result.losses,
        "restored": all(map(torch.equal, before, own_part(module))),
    }
    found["variants"] = variants(name, options)
    found["two sweeps"] = two_sweeps(name, options)
    for kind, finder in {"by probe": {}, "by range test": {"range_test": LRRangeTestCallback()}}.items():
        found[kind] = one_line(name, folder, options, LRSchedulerCallback(**finder))
        resumed = one_line(name, folder, options, LRSchedulerCallback(**finder), folder / "tested.ckpt")
        found[f"{kind}, resumed"] = resumed
    found["fabric"] = in_a_fabric_loop(name, accelerator)
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
