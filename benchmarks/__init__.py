"""Ours beside its rivals, on the same images, in one run: see benchmarks/README.md."""
