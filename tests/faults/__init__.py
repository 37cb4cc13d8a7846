"""Faults made on purpose, one file for each property. `python -m tests.faults.soak` is the long part."""
