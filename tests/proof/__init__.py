"""Gaps named and repaired."""
