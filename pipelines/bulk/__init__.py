"""Work in units that are independent and may be repeated: backfill, rehydrate, on threads or a Dask cluster."""
