"""Measurements as ratios in one run, printed and written into the docs. Never tests, because machines differ."""
