"""The conflict lab: short runs keep the rules, a broken engine is found, reports are written."""

import asyncio
import json
import multiprocessing
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
import structlog
from click.testing import CliRunner

from db.embedded.roles import Role
from db.lab.sandbox import Sandbox
from db.ledger import apply as writes
from db.rows import Wanted
from db.session.database import Database, DatabaseError, LockTimeout
from db.strategies import open_strategy
from service.cli import cli
from service.lab.claims import CLAIMS, SETTINGS, judge_claim
from service.lab.crowd import Exchange
from service.lab.experiment import LOCATION, PRESETS, Experiment
from service.lab.experiment_runner import ExperimentRunner, find_reasons_not_to_run
from service.lab.faults import PAUSE_SECONDS
from service.lab.holder import freeze_holder
from service.lab.insertion import insert_everywhere
from service.lab.invocation import CHECKS
from service.lab.processes import quiet, started
from service.lab.report import LabReport, write_html, write_json, write_markdown, write_plot
from service.lab.result import SLICE_SECONDS
from service.lab.verdict import judge, judge_budget
from tests.roles import as_role

SHORT = Experiment(skus=1, clients=24, seconds=0.4, processes=1, twins=0.1)


@pytest.fixture(autouse=True)
def quietly():
    """Restore the configuration of logging, which the lab changes for its process."""
    before = structlog.get_config()
    quiet()
    yield
    structlog.configure(**before)


@pytest.fixture
async def runner(postgres_url):
    with started(1) as processes:
        async with Sandbox(postgres_url).opened() as sandbox:
            yield ExperimentRunner(sandbox, processes)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(
    "strategy", ["guard", "version", "pessimistic", "serializable", "advisory"]
)
async def test_every_strategy_keeps_the_rules(runner, strategy, merge):
    crowd = replace(SHORT, strategy=strategy, merge=merge, stock=40, skus=3, lines=2)
    result = await runner.run(replace(crowd, hold=0.4, refund=0.3))
    assert dict(result.verdict.parts) == {rule: [] for rule, _ in result.verdict.parts}
    assert result.requests > 0
    assert result.outcomes["created"] > 0


@pytest.mark.parametrize("fault", ["kill", "pause", "drop"])
async def test_the_rules_hold_under_every_fault(runner, fault):
    seconds = 1.0 if fault == "pause" else 2.0
    result = await runner.run(replace(SHORT, fault=fault, seconds=seconds, merge=fault == "pause"))
    assert dict(result.verdict.parts) == {rule: [] for rule, _ in result.verdict.parts}
    if fault != "pause":
        assert result.conflicts.get("connection_lost")


@pytest.mark.parametrize("strategy", ["redis", "zookeeper"])
async def test_a_paused_holder_keeps_its_distributed_lock_until_the_lock_expires(
    runner, brokers, strategy
):
    crowd = replace(
        SHORT, strategy=strategy, fault="pause", seconds=12.0, clients=4, **brokers[strategy]()
    )
    result = await runner.run(crowd)
    assert dict(result.verdict.parts) == {rule: [] for rule, _ in result.verdict.parts}
    slices = "".join("x" if answers else "." for answers in result.timeline)
    silence = max(slices.rstrip(".").split("x"), key=len)  # of those that an answer has ended
    assert len(silence) * SLICE_SECONDS > 2 * PAUSE_SECONDS, (
        "no silence that another client ended is longer than one that a row lock would cause"
    )
    assert result.conflicts["lock_timeout"] > 0


@pytest.mark.parametrize("strategy", ["redis", "zookeeper"])
async def test_another_client_gets_the_lock_while_its_holder_is_still_paused(
    runner, brokers, strategy
):
    settings = brokers[strategy]()
    experiment = replace(SHORT, strategy=strategy, **settings)
    async with runner.sandbox.database() as url, asyncio.timeout(60):
        freezing = asyncio.create_task(freeze_holder(experiment, url))
        database, other = Database(url, pool_size=1), open_strategy(strategy, **settings)
        while not paused_children():
            await asyncio.sleep(0.01)  # another process changes it; the timeout limits the wait
        await insist_on_lock(other, database, (experiment.sku_names[0], LOCATION))
        assert len(paused_children()) == 1
        await freezing
        assert paused_children() == []
        await other.close()
        await database.close()


def paused_children():
    """The stopped child processes."""
    return [
        child
        for child in multiprocessing.active_children()
        if Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    ]


async def insist_on_lock(strategy, database, key):
    while True:
        with suppress(LockTimeout):
            async with strategy.hold(database, Wanted(stock={key})):
                return


async def test_a_flash_sale_sells_out_exactly(runner):
    values = {**PRESETS["flash-sale"], "stock": 30}
    result = await runner.run(replace(SHORT, **values, twins=0.0))
    assert result.verdict
    assert result.outcomes["created"] == 30
    assert result.refusals > 0


async def test_in_an_open_loop_orders_arrive_at_their_rate(runner):
    result = await runner.run(replace(SHORT, rate=50.0, seconds=1.0, twins=0.0))
    assert result.verdict
    assert 20 < result.requests < 90  # Poisson: 50 give or take seven


async def test_services_in_separate_processes_share_one_history(postgres_url):
    with started(2) as processes:
        async with Sandbox(postgres_url).opened() as sandbox:
            runner = ExperimentRunner(sandbox, processes)
            for merge in (True, False):
                result = await runner.run(replace(SHORT, processes=2, merge=merge, twins=0.5))
                assert dict(result.verdict.parts) == {rule: [] for rule, _ in result.verdict.parts}
                assert result.outcomes["unchanged"] > 0, (
                    "no equal requests reached different processes"
                )


CARELESS = ("stock.available + new.lowest >= 0", "stock.version = new.seen_version")


@pytest.fixture
def without_guards(monkeypatch):
    """Make the engine write its plan even if the rows that it read have changed."""
    part = writes.PARTS["stock_changed"]
    sql = part.sql
    for guard in CARELESS:
        assert guard in sql
        sql = sql.replace(guard, "TRUE")
    monkeypatch.setitem(writes.PARTS, "stock_changed", replace(part, sql=sql))
    monkeypatch.setattr(writes, "_STATEMENTS", {})


RUSH = replace(
    SHORT, skus=20, stock=5, merge=False, seconds=1.0
)  # clients compete for the last units of twenty SKUs


async def test_an_engine_without_guards_oversells_and_the_lab_finds_it(runner, without_guards):
    runner.prepare = "ALTER TABLE stock DROP CONSTRAINT stock_available_check"
    result = await runner.run(RUSH)
    assert not result.verdict
    assert any("oversold" in finding for finding in result.verdict.history)


async def test_the_lab_finds_missing_guards_even_if_a_constraint_prevents_overselling(
    runner, without_guards
):
    for _ in range(10):  # a run in which no two clients meet has nothing to find
        result = await runner.run(RUSH)
        if result.verdict.answers:
            break
    assert any("internal_error" in finding for finding in result.verdict.answers)


def answer(kind="reserve", called=0.0, answered=1.0, outcome="created", **more):
    values = {"reservation": SHORT_ID, "due": called, "is_replayed": False} | more
    return Exchange(kind=kind, called=called, answered=answered, outcome=outcome, **values)


SHORT_ID = UUID(int=1)


def test_a_request_that_was_executed_twice_is_found():
    verdict = judge(SHORT, [answer(), answer()], {}, {})
    assert "carried out 2 times" in verdict.once[0]


def test_an_accepted_request_that_moved_nothing_is_found():
    verdict = judge(SHORT, [answer()], {}, {})
    assert "moved nothing" in verdict.winners[0]


def test_missing_units_of_a_stock_row_are_found():
    verdict = judge(SHORT, [], {}, {"sku-00000": 5})
    assert "5 units left" in verdict.winners[0]


def test_more_retries_than_the_budget_are_found():
    assert judge_budget(SHORT, retries=219, commands=0, seconds=1.0) == []
    assert judge_budget(SHORT, retries=221, commands=0, seconds=1.0)
    assert judge_budget(SHORT, retries=1000, commands=10_000, seconds=1.0) == []


async def test_select_then_insert_makes_duplicates_only_without_a_unique_index(runner):
    async with runner.sandbox.database() as url:
        found = {(each.way, each.crowd): each for each in await insert_everywhere(url, seed=1)}
    at_once = "16 clients, the same key at once"
    assert found["select, then insert", "one client"].duplicates == 0
    assert found["select, then insert", at_once].duplicates > 0
    assert found["the same, SERIALIZABLE", at_once].duplicates == 0
    assert found["unique index, ON CONFLICT DO NOTHING", at_once].duplicates == 0
    assert found["unique index, ON CONFLICT DO NOTHING", at_once].errors == 0


async def test_a_claim_holds_only_if_every_round_agrees(runner):
    result = await runner.run(replace(SHORT, seconds=0.1))
    fast, slow = replace(result, throughput=200.0), replace(result, throughput=100.0)
    clear, mixed, *_ = SETTINGS
    runs = {
        clear: {"guard": [fast, fast, fast], "version": [slow, slow, slow]},
        mixed: {"guard": [fast, fast, slow], "version": [slow, slow, fast]},
    }
    verdicts = [each.verdict for each in judge_claim(CLAIMS[1], runs).comparisons]
    assert verdicts == ["holds", "no clear difference"]


async def test_a_report_loads_no_other_file(runner, tmp_path):
    report = LabReport(
        "holdfast lab", [await runner.run(SHORT)], skipped={"redis": "no --redis-url"}
    )
    for name, write in {
        "a.html": write_html, "a.json": write_json, "a.md": write_markdown, "a.svg": write_plot
    }.items():  # fmt: skip
        write(report, tmp_path / name)
    page = (tmp_path / "a.html").read_text()
    assert page.count("<svg") == 5
    assert "not run: redis" in page.lower()
    assert not re.search(r"<script|<link|<img|@import|url\(|src=|href=", page)
    values = json.loads((tmp_path / "a.json").read_text())
    assert values["holds"] is True
    assert values["runs"][0]["requests"] > 0
    assert "redis_url" not in values["runs"][0]["experiment"]


async def test_a_strategy_without_its_lock_service_is_reported():
    absent = replace(SHORT, redis_url="redis://127.0.0.1:1/0", zookeeper_hosts="127.0.0.1:1")
    reasons = await find_reasons_not_to_run(absent, ["guard", "redis", "zookeeper"])
    assert reasons["guard"] is None
    assert "no Redis answers" in str(reasons["redis"])
    assert reasons["zookeeper"] == "no ZooKeeper answers"
    reasons = await find_reasons_not_to_run(SHORT, ["redis", "zookeeper"])
    assert reasons == {"redis": "no --redis-url", "zookeeper": "no --zookeeper-hosts"}


def call(postgres_url, *arguments):
    flags = ("--database-url", postgres_url, "--processes", "1", "--clients", "16")
    return CliRunner().invoke(cli, ["lab", *flags, "--seconds", "0.2", *arguments])


async def databases(url):
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT datname FROM pg_database")
    finally:
        await connection.close()
    return {row["datname"] for row in rows}


def test_a_check_passes_and_drops_its_databases(postgres_url):

    before = asyncio.run(databases(postgres_url))
    answer = call(postgres_url, "--check")
    assert answer.exit_code == 0, answer.output
    assert f"PASS: everything held in {len(CHECKS)} runs" in answer.output
    assert asyncio.run(databases(postgres_url)) == before


def test_a_check_of_a_broken_engine_fails(postgres_url, without_guards):
    answer = call(postgres_url, "--check")
    assert answer.exit_code == 1
    assert "DID NOT HOLD" in answer.output
    assert "FAIL" in answer.output


def test_a_check_of_a_strategy_that_can_not_run_fails(postgres_url):
    answer = call(postgres_url, "--check", "--strategy", "redis")
    assert answer.exit_code == 1
    assert "NOT CHECKED: redis, no --redis-url" in answer.output


def test_a_role_that_may_not_create_databases_is_reported(postgres_url):
    serving = as_role(postgres_url, Role.SERVING)
    if serving == postgres_url:
        pytest.skip("on another server one role does everything")
    with pytest.raises(DatabaseError, match="may not create databases"):
        raise call(serving).exception
