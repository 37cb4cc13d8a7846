"""A Cloudflare Audit Logs API of its own process, for the demo, the tests and the benchmarks. Knows no client."""
