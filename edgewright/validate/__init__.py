"""Measure what was exported, and judge it."""
