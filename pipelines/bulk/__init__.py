"""Independent, repeatable units of work: backfill, rehydrate and reconcile, on threads or a Dask cluster."""
