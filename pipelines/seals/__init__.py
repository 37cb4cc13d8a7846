"""Seals: signed statements of what the lake held when an hour was sealed, and their verification."""
