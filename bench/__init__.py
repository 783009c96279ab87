"""Measurements: interleaved in one run, with medians and ratios over several rounds."""
