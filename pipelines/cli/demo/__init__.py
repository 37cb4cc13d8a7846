"""The demo: its steps, what it asks, and how it is told."""
