"""A run as others see it: metrics, the health server, the supervisor."""
