"""The options that several measurements share."""

import argparse
from pathlib import Path


def measurement_parser(
    program: str, description: str | None, *, rounds: int, seconds: int
) -> argparse.ArgumentParser:
    """Return a parser with the length of the measurement and its output files."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=int, default=seconds)
    parser.add_argument("--json", type=output_file, help="write the figures of every round here")
    parser.add_argument("--report", type=output_file, help="write a page with the tables here")
    return parser


def output_file(text: str) -> Path:
    """Return the file to write, and create its directory before the measurements begin."""
    path = Path(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
