"""What belongs to this host and process: logs, locks, memory, secrets in text."""
