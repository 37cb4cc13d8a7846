"""The models and tools of the benchmarks."""
