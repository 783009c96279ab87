"""The limits of a source over HTTP and on the command line."""

import asyncio
import itertools
import os
from typing import Any

import asyncpg
import pytest

from tests.preloaded import run_command

SHOP = "/v1/sources/shop-eu/limits"
NONE = {
    "open_holds_max": None,
    "held_units_max": None,
    "hold_seconds_max": None,
    "requests_per_second": None,
}


def hold(seq: str, units: int = 1, seconds: int = 900) -> dict[str, Any]:
    return {"seq": seq, "lines": [{"sku": "A", "quantity": units}], "hold_seconds": seconds}


@pytest.fixture
async def shop(service):
    await service.stock("A", 1000)
    return service


async def limit(shop: Any, source: str = "shop-eu", **limits: int | None) -> dict[str, Any]:
    answer = await shop.client.put(f"/v1/sources/{source}/limits", json=limits)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def used(shop: Any, source: str = "shop-eu") -> tuple[int, int]:
    use = (await shop.client.get(f"/v1/sources/{source}/limits")).json()["used"]
    return use["open_holds"], use["held_units"]


async def reserve(shop: Any, *hold_: Any) -> Any:
    return await shop.client.post("/v1/reservations", json=hold(*hold_))


async def test_a_source_has_no_limits_until_they_are_set_and_its_use_is_shown_anyway(shop):
    await reserve(shop, "1", 3)
    answer = await shop.client.get(SHOP)
    used_ = {"open_holds": 1, "held_units": 3}
    assert answer.json() == {"source": "shop-eu", **NONE, "used": used_}
    set_ = await limit(shop, open_holds_max=20, hold_seconds_max=900)
    expected = {**NONE, "open_holds_max": 20, "hold_seconds_max": 900}
    assert set_ == {"source": "shop-eu", **expected, "used": used_}
    assert (await shop.client.get(SHOP)).json() == set_


async def test_a_put_replaces_all_limits_and_can_be_repeated(shop):
    await limit(shop, open_holds_max=20, requests_per_second=50)
    for _ in range(2):
        assert (await limit(shop, held_units_max=5))["open_holds_max"] is None
    removed = await limit(shop)
    assert {name: removed[name] for name in NONE} == NONE
    assert (await reserve(shop, "1", 9)).status_code == 201


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"open_holds_max": -1}, "open_holds_max"),
        ({"open_holds_max": 10**9 + 1}, "open_holds_max"),
        ({"open_holds_max": True}, "open_holds_max"),
        ({"open_holds_max": "5"}, "open_holds_max"),
        ({"held_units_max": 1.0}, "held_units_max"),
        ({"held_units_max": 10**12 + 1}, "held_units_max"),
        ({"hold_seconds_max": 0}, "hold_seconds_max"),
        ({"hold_seconds_max": 604_801}, "hold_seconds_max"),
        ({"requests_per_second": 0}, "requests_per_second"),
        ({"requests_per_second": 10**6 + 1}, "requests_per_second"),
        ({"open_holds": 5}, "open_holds"),
        ([], "body"),
    ],
)
async def test_a_limit_is_a_whole_number_within_its_bounds_or_null(shop, body, path):
    answer = await shop.client.put(SHOP, json=body)
    assert answer.status_code == 400
    assert [error["path"] for error in answer.json()["errors"]] == [path]


async def test_the_source_in_the_path_is_decoded_and_checked(shop):
    found = await limit(shop, "a%2Fb%20%C3%A9", open_holds_max=1)
    assert found["source"] == "a/b é"
    assert (await shop.client.get("/v1/sources/a%2Fb%20%C3%A9/limits")).json() == found
    for name in ("%20a", "a%00", "%FF", "x" * 129):
        refused = await shop.client.put(f"/v1/sources/{name}/limits", json={})
        assert (refused.status_code, refused.json()["errors"][0]["path"]) == (400, "source")


async def test_a_hold_past_the_limit_is_refused_and_not_remembered(shop):
    await limit(shop, open_holds_max=1)
    first = await reserve(shop, "1")
    refused = await reserve(shop, "2")
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    problem = refused.json()
    told = {name: problem[name] for name in ("code", "limit", "max", "used", "asked")}
    assert told == {
        "code": "quota_exceeded",
        "limit": "open_holds_max",
        "max": 1,
        "used": 1,
        "asked": 1,
    }
    assert (problem["retryable"], problem["same_seq"]) == (True, True)
    assert (await shop.client.get("/v1/reservations?seq=2")).json()["items"] == []
    await shop.client.post(first.headers["Location"] + "/cancel")
    assert (await reserve(shop, "2")).status_code == 201


async def test_a_stored_answer_is_given_again_beyond_the_limit(shop):
    first = await reserve(shop, "1", 5)
    short = await reserve(shop, "2", 2000)
    await limit(shop, open_holds_max=0, held_units_max=0, hold_seconds_max=1)
    again = await reserve(shop, "1", 5)
    assert (again.status_code, again.json()) == (200, first.json())
    assert (await reserve(shop, "2", 2000)).json()["code"] == short.json()["code"]
    assert (await reserve(shop, "1", 6)).status_code == 422
    assert (await reserve(shop, "3", 1, 1)).json()["code"] == "quota_exceeded"


@pytest.mark.parametrize("step", ["confirm", "cancel"])
async def test_a_step_that_ends_a_hold_gives_its_use_back(shop, step):
    await limit(shop, open_holds_max=1, held_units_max=4)
    place = (await reserve(shop, "1", 4)).headers["Location"]
    assert await used(shop) == (1, 4)
    assert (await shop.client.post(f"{place}/{step}")).status_code == 200
    assert await used(shop) == (0, 0)
    assert (await reserve(shop, "2", 4)).status_code == 201


async def test_an_overdue_hold_counts_until_it_is_released(service_without_sweeper):
    shop = service_without_sweeper
    await shop.stock("A", 10)
    await limit(shop, open_holds_max=1)
    place = (await reserve(shop, "1", 2)).headers["Location"]
    await shop.sql("UPDATE reservation SET expires_at = now() - interval '1 hour'")
    assert (await reserve(shop, "2")).json()["code"] == "quota_exceeded"
    assert (await shop.client.post(f"{place}/confirm")).json()["state"] == "expired"
    assert await used(shop) == (0, 0)
    assert (await reserve(shop, "2")).status_code == 201


async def test_the_sweeper_gives_the_use_of_overdue_holds_back(shop):
    await limit(shop, open_holds_max=1)
    assert (await reserve(shop, "1", 2, 1)).status_code == 201
    async with asyncio.timeout(30):
        while (await reserve(shop, "2")).status_code != 201:
            await asyncio.sleep(0.05)
    assert await used(shop) == (1, 1)


async def test_a_buyer_of_another_source_gives_the_overdue_use_back(service_without_sweeper):
    shop = service_without_sweeper
    await shop.stock("A", 5)
    await limit(shop, open_holds_max=1)
    await reserve(shop, "1", 5)
    await shop.sql("UPDATE reservation SET expires_at = now() - interval '1 hour'")
    theirs = await shop.key("other", "reserve")
    sale = {"seq": "1", "lines": [{"sku": "A", "quantity": 5}]}
    answer = await shop.client.post("/v1/reservations", json=sale, headers=theirs)
    assert answer.status_code == 201
    assert await used(shop) == (0, 0)


async def test_a_hold_may_not_last_longer_than_its_source_may_hold(shop):
    await limit(shop, hold_seconds_max=600)
    refused = await reserve(shop, "1", 1, 601)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
    assert [error["path"] for error in refused.json()["errors"]] == ["hold_seconds"]
    place = (await reserve(shop, "1", 1, 600)).headers["Location"]
    extended = await shop.client.post(f"{place}/extend", json={"hold_seconds": 600})
    assert [error["path"] for error in extended.json()["errors"]] == ["hold_seconds"]
    allowed = await shop.client.post(f"{place}/extend", json={"hold_seconds": 500})
    assert allowed.status_code == 200
    sale = {"seq": "2", "lines": [{"sku": "A", "quantity": 1}]}
    assert (await shop.client.post("/v1/reservations", json=sale)).status_code == 201


async def test_a_lower_limit_stops_new_holds_only(shop):
    await limit(shop, open_holds_max=5)
    places = [(await reserve(shop, str(n))).headers["Location"] for n in range(3)]
    lowered = await limit(shop, open_holds_max=1)
    assert lowered["used"] == {"open_holds": 3, "held_units": 3}
    assert (await reserve(shop, "x")).json()["used"] == 3
    extend = await shop.client.post(f"{places[0]}/extend", json={"hold_seconds": 60})
    assert extend.status_code == 200
    for place in places:
        assert (await shop.client.post(f"{place}/confirm")).status_code == 200
    assert (await reserve(shop, "x")).status_code == 201


async def test_a_batch_gets_the_answers_of_its_requests_one_after_another(shop):
    await limit(shop, open_holds_max=2, held_units_max=6)
    holds = [hold("1", 3), hold("2", 4), hold("3", 3), hold("4", 1), hold("1", 3), hold("5", 1, 60)]
    answer = await shop.client.post("/v1/reservations/batch", json={"reservations": holds})
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [201, 429, 201, 429, 200, 429]
    problem = results[1]["problem"]
    assert (problem["limit"], problem["used"], problem["asked"]) == ("held_units_max", 3, 4)
    assert results[3]["problem"]["limit"] == "open_holds_max"


async def test_the_first_limit_counts_every_hold_while_many_are_made(shop):
    """Requests go on all the time, and the books balance at the end of the test."""
    counter, stop, answers = itertools.count(), asyncio.Event(), []

    async def buy() -> None:
        while not stop.is_set():
            answer = await reserve(shop, f"s{next(counter)}", 2)
            answers.append(answer.status_code)
            if answer.status_code == 201 and next(counter) % 3 == 0:
                await shop.client.post(answer.headers["Location"] + "/cancel")

    buyers = [asyncio.create_task(buy()) for _ in range(12)]
    for most in (30, None, 40):
        await asyncio.sleep(0.2)
        found = await limit(shop, open_holds_max=most)
        assert found["used"]["open_holds"] * 2 == found["used"]["held_units"]
    await asyncio.sleep(0.3)
    stop.set()
    await asyncio.gather(*buyers)
    assert set(answers) <= {201, 409, 429}
    assert (await shop.client.get("/v1/audit")).json()["balanced"] is True


async def test_an_audit_names_the_source_whose_use_is_wrong(shop):
    await limit(shop, open_holds_max=5)
    await reserve(shop, "1", 2)
    await shop.sql("UPDATE source_limit SET open_holds = 3")
    (drift,) = (await shop.client.get("/v1/audit")).json()["drift"]
    assert drift == {
        "rule": "the use of a source's limits equals its open holds",
        "source": "shop-eu",
        "expected": "open holds 1, units 2",
        "found": "open holds 3, units 2",
    }
    await shop.sql("UPDATE source_limit SET open_holds = 1")


async def test_two_changes_at_once_of_one_source_are_both_safe(shop):
    await reserve(shop, "1", 2)
    limits = [{"open_holds_max": 3}, {}, {"held_units_max": 9}, {"open_holds_max": 4}] * 3
    answers = await asyncio.gather(*(shop.client.put(SHOP, json=each) for each in limits))
    assert {answer.status_code for answer in answers} == {200}
    found = await limit(shop, open_holds_max=2)
    assert found["used"] == {"open_holds": 1, "held_units": 2}
    (row,) = await shop.sql("SELECT tracking FROM source_limit")
    assert row["tracking"] == "on"


async def test_a_locked_row_of_one_source_does_not_stop_other_sources(shop):
    await limit(shop, open_holds_max=9)
    theirs = await shop.key("other", "reserve")
    operator = await asyncpg.connect(shop.url)
    await operator.execute("BEGIN")
    await operator.execute("SELECT 1 FROM source_limit FOR UPDATE")
    blocked = [asyncio.create_task(reserve(shop, f"blocked-{n}")) for n in range(4)]
    free = [
        shop.client.post("/v1/reservations", json=hold(str(n)), headers=theirs) for n in range(8)
    ]
    answers = await asyncio.gather(*free)
    assert {answer.status_code for answer in answers} == {201}
    assert not any(task.done() for task in blocked)
    await operator.close()
    assert {answer.status_code for answer in await asyncio.gather(*blocked)} == {201}


def command(*arguments: str) -> Any:
    return asyncio.to_thread(run_command, *arguments, environment=os.environ)


async def test_the_command_line_changes_only_the_limits_it_names(shop):
    set_ = ("limits", "set", "--database-url", shop.url, "shop-eu")
    await reserve(shop, "1", 2)
    first = await command(*set_, "--open-holds-max", "5")
    assert first.stdout == (
        "shop-eu  open_holds_max 5  held_units_max none  hold_seconds_max none"
        "  requests_per_second none  used 1 open holds, 2 units\n"
    )
    second = await command(*set_, "--held-units-max", "9", "--open-holds-max", "none")
    assert "open_holds_max none  held_units_max 9" in second.stdout
    shown = await command("limits", "show", "--database-url", shop.url)
    assert shown.stdout == second.stdout
    one = await command("limits", "show", "--database-url", shop.url, "unknown")
    assert "used 0 open holds, 0 units" in one.stdout
    assert (await reserve(shop, "2", 8)).json()["limit"] == "held_units_max"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--open-holds-max", "-1"),
        ("--open-holds-max", "many"),
        ("--hold-seconds-max", "0"),
        ("--requests-per-second", "9999999999"),
    ],
)
async def test_the_command_line_refuses_what_is_no_limit(shop, arguments):
    set_ = ("limits", "set", "--database-url", shop.url, "shop-eu", *arguments)
    refused = await command(*set_)
    assert refused.returncode == 2
