"""Words that must be said, and words that must never be: secrets, and failures beside the way."""
