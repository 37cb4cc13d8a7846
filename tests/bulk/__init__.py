"""Backfill and rehydrate, on threads and on Dask."""
