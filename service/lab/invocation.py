"""One invocation of `holdfast lab`: its request, its server, its runs and its report."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from db.lab.observation import observing, server_version
from db.lab.sandbox import Sandbox, server
from service.lab.claims import ROUNDS, STRATEGIES, measure_claims
from service.lab.experiment import PRESETS, Experiment
from service.lab.experiment_runner import ExperimentRunner, each_strategy, find_reasons_not_to_run
from service.lab.processes import new_loop, quiet, started
from service.lab.report import LabReport
from service.lab.result import RunResult

CHECKS = (
    {**PRESETS["hot"], "refund": 0.3},
    {**PRESETS["hot"], "refund": 0.3, "merge": False},
    {**PRESETS["flash-sale"]},
    {**PRESETS["flash-sale"], "merge": False, "stock": 50},
    {**PRESETS["crossed-orders"], "hold": 0.3, "stock": 60},
    {**PRESETS["crossed-orders"], "hold": 0.3, "stock": 60, "merge": False},
    {**PRESETS["zipf"], "fault": "kill"},
    {**PRESETS["zipf"], "fault": "drop", "merge": False},
)
"""The runs of `--check`: each kind of contention, merged or not, sold out or not, and crashes."""


@dataclass(frozen=True, slots=True)
class LabRequest:
    """The options of an invocation."""

    experiment: Experiment
    strategies: Sequence[str]
    """Empty for all strategies of the preset."""
    command: str
    is_check: bool = False
    is_claims: bool = False
    rounds: int = ROUNDS
    database_url: str | None = None
    pg_bin: Path | None = None


def run_lab(request: LabRequest, console: Console) -> LabReport:
    """Run the experiments, show the progress on the console, and return the report."""
    quiet()
    count = request.experiment.processes
    with (
        server(request.database_url, request.pg_bin) as url,
        started(count) as processes,
        asyncio.Runner(loop_factory=new_loop) as event_loop,
        _ProgressDisplay(console) as display,
    ):

        async def work() -> LabReport:
            async with Sandbox(url).opened() as sandbox:
                return await _run(
                    request,
                    ExperimentRunner(sandbox, processes, display.show_progress),
                    url,
                    display,
                )

        return event_loop.run(work())


async def _run(
    request: LabRequest, runner: ExperimentRunner, url: str, display: "_ProgressDisplay"
) -> LabReport:
    reasons = await find_reasons_not_to_run(request.experiment, request.strategies or STRATEGIES)
    strategies = [name for name, reason in reasons.items() if reason is None]
    report = LabReport(
        request.command, skipped={name: reason for name, reason in reasons.items() if reason}
    )
    async with observing(url) as observer:
        report.database = await server_version(observer)
    if request.is_claims:
        report.claims = await measure_claims(
            runner, request.experiment, strategies, request.rounds, display.name_run
        )
    else:
        report.results = await _run_each(runner, plan_experiments(request, strategies), display)
    return report


def plan_experiments(request: LabRequest, strategies: Sequence[str]) -> list[Experiment]:
    """Return the experiments to run, in order."""
    basis = request.experiment
    if not request.is_check:
        return each_strategy(basis, strategies)
    return [
        experiment
        for values in CHECKS
        for experiment in each_strategy(replace(basis, **values), strategies)
    ]


async def _run_each(
    runner: ExperimentRunner, experiments: Sequence[Experiment], display: "_ProgressDisplay"
) -> list[RunResult]:
    results = []
    for number, experiment in enumerate(experiments, start=1):
        display.name_run(f"{number}/{len(experiments)} {experiment.strategy}: {experiment.title}")
        results.append(await runner.run(experiment))
    return results


class _ProgressDisplay:
    """Shows the current run, its progress and its rate."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("starting", total=None, rate="")

    def __enter__(self) -> "_ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_failure: object) -> None:
        self._progress.stop()

    def name_run(self, description: str) -> None:
        """Show the name of the current run."""
        self._progress.reset(self._task, description=description, total=None, rate="")

    def show_progress(self, experiment: Experiment, seconds: float, answers: int) -> None:
        """Show the progress of the current run."""
        rate = f"{answers:,} answers, {answers / max(seconds, 0.05):,.0f}/s"
        self._progress.update(
            self._task,
            completed=min(seconds, experiment.seconds),
            total=experiment.seconds,
            rate=rate,
        )
