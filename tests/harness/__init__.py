"""What the tests, the soak and the benchmarks share."""
