"""The main job: what is due, what it reads, what it loads."""
