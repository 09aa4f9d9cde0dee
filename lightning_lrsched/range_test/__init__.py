"""What an LR range test found: the smoothed loss, the stop rule, the suggestions, the result."""
