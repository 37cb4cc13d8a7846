"""The pure parts of seals: trees, notes, the files, what is in them, and the verdicts. They touch nothing."""
