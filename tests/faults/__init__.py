"""What may happen to a run, on purpose: one file a property. `python -m tests.faults.soak` is the long part."""
