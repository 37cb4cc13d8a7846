"""What is said, and what must never be: secrets, and failures beside the way."""
