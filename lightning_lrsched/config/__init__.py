"""How a schedule is asked for: DeepSpeed-style dictionaries and files."""
