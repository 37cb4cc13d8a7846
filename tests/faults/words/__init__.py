"""Messages that must appear, and words that never may: failures in the background, and secrets."""
