"""Measurements: ratios in one run, printed and written into the docs. Never a test: machines differ."""
