"""`make fuzz`: run the fuzzers with many random examples each.

    make fuzz ARGS="--examples 100000 --seed 7 --only cursor"

The same seed draws the same examples.
"""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import click


@click.command()
@click.option("--examples", default=5_000, help="Examples for each parser and property.")
@click.option("--seed", default=None, type=int, help="Draw the same examples again.")
@click.option("--only", default="", help="Only tests and parsers with these words, as for pytest.")
def fuzz(examples: int, seed: int | None, only: str) -> None:
    """Send random hostile inputs to every parser."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    click.echo(f"{examples} examples each, seed {seed}")
    command = [sys.executable, "-m", "pytest", "-q", "--timeout", "0", f"--hypothesis-seed={seed}"]
    done = subprocess.run(
        [*command, str(Path(__file__).parent), "-k", only],
        env={**os.environ, "HOLDFAST_TEST_FUZZ_EXAMPLES": str(examples)},
        check=False,
    )
    sys.exit(done.returncode)


if __name__ == "__main__":
    fuzz()
