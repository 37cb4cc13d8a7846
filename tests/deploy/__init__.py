"""What is deployed: compose file, image, units. Neither Docker nor systemd runs here; their own checkers do."""
