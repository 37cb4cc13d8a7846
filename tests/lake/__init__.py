"""The lake: objects, partitions, quarantine, and its other readers."""
