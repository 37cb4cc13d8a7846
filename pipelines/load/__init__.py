"""One dlt pipeline: its store, its cursor, and what dlt is told of both."""
