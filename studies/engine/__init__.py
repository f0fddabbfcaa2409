"""Runs studies: grid, checks, files, report. It knows no network and no study."""
