"""Both stores alike, and the stores of an older release."""
