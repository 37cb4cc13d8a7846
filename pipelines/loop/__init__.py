"""The loop: what is due, read once, loaded into each destination. Knows no SQL, no S3, no dlt."""
