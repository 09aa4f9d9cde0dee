"""When it happens: the callbacks that drive a schedule or an LR range test inside a Trainer."""
