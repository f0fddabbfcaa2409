"""Timings of the two packages beside their peers, side by side in one run; not installed."""
