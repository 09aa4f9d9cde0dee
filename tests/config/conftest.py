"""The small Trainer of the callbacks' tests."""

from tests.trainer.conftest import make_trainer

__all__ = ["make_trainer"]
