"""The host and the process: logs, locks, memory, secrets in text."""
