"""`make bench`: Holdfast against its limits and against what teams write, in one run.

All services stand side by side on one PostgreSQL (fsync and synchronous_commit on) and are loaded
in turn, round by round, so that a noisy machine is noisy for all. Figures are medians; ratios are
what counts.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.progress import track

from bench import report, statement
from bench.cases import CASES, STATEMENT, Case
from bench.load import Measured, check_wrk, load
from bench.page import load_average, show
from bench.stand import Stand, running


def main() -> None:
    """Run the cases and print the tables."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="only the cases with goals")
    parser.add_argument("--json", type=Path, help="write every round's figures here")
    parser.add_argument("--report", type=Path, help="write a page with the tables here")
    options = parser.parse_args()
    check_wrk()
    load_before = load_average()
    cases = [case for case in CASES if case.is_short or not options.short]
    names = {name for case in cases for name in case.services}
    with tempfile.TemporaryDirectory() as directory, running(Path(directory), names) as stand:
        results = measure(stand, cases, options.rounds, options.seconds)
    show(report.GOAL_HEADINGS, report.goals(results))
    show(report.HEADINGS, report.rows(results))
    if options.json:
        everything = [
            {"case": case, "service": name, "rounds": [asdict(one) for one in measured]}
            for (case, name), measured in results.items()
        ]
        options.json.write_text(json.dumps(everything, indent=2))
    if options.report:
        command = f"make bench ARGS='--rounds {options.rounds} --seconds {options.seconds}"
        command += f"{' --short' if options.short else ''} --report {options.report}'"
        report.write(options.report, results, command, options.rounds, options.seconds, load_before)


def measure(stand: Stand, cases: Sequence[Case], rounds: int, seconds: int) -> report.Results:
    """Load every service with every case that names it, round by round."""
    turns = [
        (case, name)
        for _ in range(rounds)
        for case in cases
        for name in case.services
        if name in stand.urls or name == STATEMENT
    ]
    results: report.Results = {}
    for number, (case, name) in enumerate(track(turns, "measuring")):
        measured = one_round(stand, case, name, f"{number}", seconds)
        results.setdefault((case.name, name), []).append(measured)
    return results


def one_round(stand: Stand, case: Case, name: str, prefix: str, seconds: int) -> Measured:
    """Load one service once."""
    if name == STATEMENT:
        return statement.measure(stand.database_url, prefix=prefix, sent=case.sent, seconds=seconds)
    return load(stand.urls[name], key=stand.key, prefix=prefix, sent=case.sent, seconds=seconds)


if __name__ == "__main__":
    main()
