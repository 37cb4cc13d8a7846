"""The warehouse on a real TimescaleDB."""
