"""Seals: what they prove of a lake, and what their verification finds."""
