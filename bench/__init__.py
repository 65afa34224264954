"""Measures this design against one Lambda that does everything, and writes docs/benchmarks.md: `make bench`."""
