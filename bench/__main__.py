"""`make bench`: Holdfast against its limits and against what teams write, in one run.

The services of a comparison stand side by side on one PostgreSQL (fsync and synchronous_commit on)
and are loaded in turn, round by round, so that a noisy machine is noisy for all. Holdfasts with
several workers, which are not quite idle when nobody asks them anything, have a stand of their own.
Figures are medians; ratios are what counts.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import report
from bench.cases import CASES, Case
from bench.load import check_wrk
from bench.page import load_average, output_file, show
from bench.rounds import Results, figures, measure
from bench.stand import running


def main() -> None:
    """Run the cases and print the tables."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="only the cases with goals")
    parser.add_argument("--json", type=output_file, help="write every round's figures here")
    parser.add_argument("--report", type=output_file, help="write a page with the tables here")
    options = parser.parse_args()
    check_wrk()
    load_before = load_average()
    cases = [case for case in CASES if case.is_short or not options.short]
    results: Results = {}
    for several in (False, True):
        together = [case for case in cases if case.has_several_workers == several]
        if together:
            results |= on_one_stand(together, options.rounds, options.seconds)
    show(report.GOAL_HEADINGS, report.goals(results))
    show(report.HEADINGS, report.rows(results))
    if options.json:
        options.json.write_text(json.dumps(figures(results), indent=2))
    if options.report:
        command = f"make bench ARGS='--rounds {options.rounds} --seconds {options.seconds}"
        command += f"{' --short' if options.short else ''} --report {options.report}'"
        report.write(options.report, results, command, options.rounds, options.seconds, load_before)


def on_one_stand(cases: Sequence[Case], rounds: int, seconds: int) -> Results:
    """Start what these cases need, measure, and take it down again."""
    names = {name for case in cases for name in case.services}
    with tempfile.TemporaryDirectory() as directory, running(Path(directory), names) as stand:
        return measure(stand, cases, rounds, seconds)


if __name__ == "__main__":
    main()
