"""Logs, masking, which errors pass by themselves."""
