"""Everything that touches a Trainer: the callbacks, and configure_optimizers."""
