"""Processes that are ended, anywhere."""
