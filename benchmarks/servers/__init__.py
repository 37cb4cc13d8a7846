"""Real servers and processes on loopback, for the benchmarks and the tests; gone when the block ends."""
