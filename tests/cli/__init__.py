"""The commands, what they print, and the documents."""
