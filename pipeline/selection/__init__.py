"""Which backbone? What ``python -m pipeline select`` compares, how it measures, and the rule that it chooses by."""
