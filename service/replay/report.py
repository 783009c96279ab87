"""Runs a replay for the command line: a progress bar for each pass, then a report."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.replay.checks import ReplayResult, replay_twice
from service.replay.client import connected
from service.replay.orders import ReplayPlan, Unmatched, plan_replay
from service.replay.orders_file import OrdersError, find_disagreement, read_orders
from service.replay.passes import Pass, seed_stock


async def run_replay(
    file: Path,
    url: str,
    key: str,
    *,
    concurrency: int,
    prefix: str,
    stock_share: float,
    matches: Path | None,
) -> list[str]:
    """Replay a file, show the progress, and return a sentence for each failed check.

    Raises `OrdersError` for a bad file and `ClientError` for a service that can't be used.
    """
    plan = plan_replay(read_orders(file), prefix, stock_share)
    if not plan.requests:
        raise OrdersError(f"{file.name} has neither purchases nor write-offs: nothing to send")
    disagreement = find_disagreement(matches, plan.matches) if matches else None
    async with connected(url, key, concurrency) as client:
        click.echo(describe_plan(file.name, plan))
        await seed_stock(plan, client)
        with progress_bars(plan) as advance:
            result = await replay_twice(plan, client, concurrency, advance)
    click.echo(describe_replay(result))
    failures = list(result.failures)
    if disagreement:
        failures.append(f"{disagreement}. See the matching rule in docs/replay.md.")
    if not failures:
        click.echo("Everything held: the second pass got only replays and moved no stock.")
    return failures


@contextmanager
def progress_bars(plan: ReplayPlan) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar for each pass on stderr; yield the function that advances one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        bars = [
            progress.add_task(description, total=plan.requests, start=False)
            for description in ("first pass", "the same again")
        ]

        def advance(number: int, steps: int) -> None:
            progress.start_task(bars[number])
            progress.advance(bars[number], steps)

        yield advance


def describe_plan(name: str, plan: ReplayPlan) -> str:
    """Return a summary of the file's requests, to print before they are sent."""
    cancelled = len(plan.matches) + len(plan.unmatched)
    returns = sum(len(order.returns) for order in plan.orders)
    return (
        f"{name}: {plan.lines:,} lines → {len(plan.orders):,} orders,"
        f" {len(plan.write_offs):,} write-offs, {returns:,} refunds\n"
        f"  {len(plan.matches):,} of {cancelled:,} cancellation lines match a purchase"
        f"{_describe_unmatched(plan.unmatched)}\n"
        f"  stock: {sum(plan.seed.values()):,} units of {len(plan.seed):,} SKUs"
        f" at location {plan.prefix!r}"
    )


def _describe_unmatched(unmatched: Sequence[Unmatched]) -> str:
    reasons = Counter(one.reason for one in unmatched)
    said = [f"\n    {count:>5,} not sent: {reason}" for reason, count in reasons.most_common()]
    return "".join(said)


def describe_replay(result: ReplayResult) -> str:
    """Return the report: both passes side by side and the result of the audit."""
    passes = (result.first, result.second)
    rows = [
        ("", ["first pass", "second pass"]),
        ("requests", [f"{len(one.answers):,}" for one in passes]),
        ("orders", [f"{one.count('order'):,}" for one in passes]),
        ("refusals", [f"{one.count('order', refused=True):,}" for one in passes]),
        ("refunds", [f"{one.count('refund'):,}" for one in passes]),
        ("write-offs", [f"{one.count('write-off'):,}" for one in passes]),
        ("replays", [f"{_replays(one):,}" for one in passes]),
        ("tried again", [f"{_retries(one):,}" for one in passes]),
        ("requests per second", [f"{len(one.answers) / one.seconds:,.0f}" for one in passes]),
        *(
            (f"latency p{share}, ms", [f"{_latency(one, share) * 1000:,.1f}" for one in passes])
            for share in (50, 95, 99)
        ),
    ]
    table = "\n".join(f"{name:<20}{first:>12}{second:>13}" for name, (first, second) in rows)
    checked = result.audit["checked"]
    balanced = "yes" if result.audit["balanced"] else "NO"
    return (
        f"{table}\n\nbooks balanced: {balanced}"
        f" ({checked['stock']:,} stock rows, {checked['reservations']:,} reservations audited)"
    )


def _replays(one: Pass) -> int:
    return sum(answer.replayed for answer in one.answers.values())


def _retries(one: Pass) -> int:
    return sum(answer.attempts - 1 for answer in one.answers.values())


def _latency(one: Pass, share: int) -> float:
    """Return a percentile by nearest rank, in seconds."""
    ordered = sorted(answer.seconds for answer in one.answers.values())
    return ordered[ceil(len(ordered) * share / 100) - 1]
