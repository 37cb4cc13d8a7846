"""Stores that fail, hang, are damaged, restored, or hold rights back."""
