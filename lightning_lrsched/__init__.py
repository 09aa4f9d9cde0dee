"""The learning-rate and momentum scheduling that Lightning users deserve."""
