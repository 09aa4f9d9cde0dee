"""The small Trainer of the callbacks' tests."""

from tests.callbacks.conftest import make_trainer

__all__ = ["make_trainer"]
