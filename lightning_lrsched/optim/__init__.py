"""Schedules on a torch optimizer: when they advance, and what they write."""
