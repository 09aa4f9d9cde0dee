"""How a schedule is written down: DeepSpeed-style dictionaries, files and command-line flags."""
