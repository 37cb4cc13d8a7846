"""The questions, and the two stores that answer them."""
