"""Metrics, alerts, progress, the supervisor."""
