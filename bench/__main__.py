"""`make bench`: Holdfast against its limits and against the usual code of teams, in one run.

The services of a comparison run side by side on one PostgreSQL (fsync and synchronous_commit on)
and are loaded in turn, round by round, so that noise on the machine affects all of them. Services
with several workers use some CPU even without requests, so they run on a separate stand. Figures
are medians; only ratios are meaningful.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import report
from bench.cases import CASES, Case
from bench.load import check_wrk
from bench.options import measurement_parser
from bench.page import load_average, show
from bench.rounds import Results, figures, measure
from bench.stand import running


def main() -> None:
    """Run the cases and print the tables."""
    parser = measurement_parser("bench", __doc__, rounds=5, seconds=3)
    parser.add_argument("--short", action="store_true", help="only the cases with goals")
    parser.add_argument("--only", default="", help="only the cases with this text in their name")
    options = parser.parse_args()
    check_wrk()
    load_before = load_average()
    cases = [
        case for case in CASES if (case.is_short or not options.short) and options.only in case.name
    ]
    results: Results = {}
    for several in (False, True):
        together = [case for case in cases if case.has_several_workers == several]
        if together:
            results |= measure_on_one_stand(together, options.rounds, options.seconds)
    show(report.GOAL_HEADINGS, report.goals(results))
    show(report.HEADINGS, report.rows(results))
    if options.json:
        options.json.write_text(json.dumps(figures(results), indent=2))
    if options.report:
        command = f"make bench ARGS='--rounds {options.rounds} --seconds {options.seconds}"
        command += " --short" if options.short else ""
        command += f" --only '{options.only}'" if options.only else ""
        command += f" --report {options.report}'"
        report.write(options.report, results, command, options.rounds, options.seconds, load_before)


def measure_on_one_stand(cases: Sequence[Case], rounds: int, seconds: int) -> Results:
    """Start the services of these cases, measure them, and stop them."""
    names = {name for case in cases for name in case.services}
    with tempfile.TemporaryDirectory() as directory, running(Path(directory), names) as stand:
        return measure(stand, cases, rounds, seconds)


if __name__ == "__main__":
    main()
