"""What others see of a run: metrics, the health server, the supervisor."""
