"""One call of `holdfast lab`, from the server it runs on to its report."""

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
from service.lab.processes import new_loop, quiet, started
from service.lab.report import LabReport
from service.lab.result import Result
from service.lab.run import Lab, each_strategy, runnable

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
"""What `--check` runs: each way to contend, merged and not, selling out and not, and crashes."""


@dataclass(frozen=True, slots=True)
class LabRequest:
    """What the lab was asked to do."""

    experiment: Experiment
    strategies: Sequence[str]
    """Empty for all that the preset speaks of."""
    command: str
    is_check: bool = False
    is_claims: bool = False
    rounds: int = ROUNDS
    database_url: str | None = None
    pg_bin: Path | None = None


def run_lab(request: LabRequest, console: Console) -> LabReport:
    """Carry it out, with progress on the console, and return the report."""
    quiet()
    count = request.experiment.processes
    with (
        server(request.database_url, request.pg_bin) as url,
        started(count) as processes,
        asyncio.Runner(loop_factory=new_loop) as runner,
        _Shown(console) as shown,
    ):

        async def work() -> LabReport:
            async with Sandbox(url).opened() as sandbox:
                return await _run(request, Lab(sandbox, processes, shown.watch), url, shown)

        return runner.run(work())


async def _run(request: LabRequest, lab: Lab, url: str, shown: "_Shown") -> LabReport:
    reasons = await runnable(request.experiment, request.strategies or STRATEGIES)
    strategies = [name for name, reason in reasons.items() if reason is None]
    report = LabReport(
        request.command, skipped={name: reason for name, reason in reasons.items() if reason}
    )
    async with observing(url) as observer:
        report.database = await server_version(observer)
    if request.is_claims:
        report.claims = await measure_claims(
            lab, request.experiment, strategies, request.rounds, shown.say
        )
    else:
        report.results = await _run_each(lab, planned(request, strategies), shown)
    return report


def planned(request: LabRequest, strategies: Sequence[str]) -> list[Experiment]:
    """Return the experiments to be run, one after another."""
    basis = request.experiment
    if not request.is_check:
        return each_strategy(basis, strategies)
    return [
        experiment
        for values in CHECKS
        for experiment in each_strategy(replace(basis, **values), strategies)
    ]


async def _run_each(lab: Lab, experiments: Sequence[Experiment], shown: "_Shown") -> list[Result]:
    results = []
    for place, experiment in enumerate(experiments, start=1):
        shown.say(f"{place}/{len(experiments)} {experiment.strategy}: {experiment.title}")
        results.append(await lab.run(experiment))
    return results


class _Shown:
    """Live progress: which run it is, how far, and how fast."""

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

    def __enter__(self) -> "_Shown":
        self._progress.start()
        return self

    def __exit__(self, *_failure: object) -> None:
        self._progress.stop()

    def say(self, what: str) -> None:
        """Show which run it is."""
        self._progress.reset(self._task, description=what, total=None, rate="")

    def watch(self, experiment: Experiment, seconds: float, answers: int) -> None:
        """Show how far the run is."""
        rate = f"{answers:,} answers, {answers / max(seconds, 0.05):,.0f}/s"
        self._progress.update(
            self._task,
            completed=min(seconds, experiment.seconds),
            total=experiment.seconds,
            rate=rate,
        )
