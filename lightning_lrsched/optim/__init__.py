"""Schedules and hyperparameters on a torch optimizer."""
