"""An LR range test without a Trainer: sweep, smoothed loss, stop rule, suggestions and result."""
