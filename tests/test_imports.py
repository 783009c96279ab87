"""An import inserts the missing rows of a file, once for each job name."""

import asyncio

import pytest

from service.engine import imports
from tests.conftest import running_service

FILE = "sku,location,available,name\nA,main,5,White heart\nB,north,7,\n"


async def send(service, content, job="monday", **headers):
    return await service.client.post(
        "/v1/imports",
        params={"job": job},
        content=content,
        headers={"Content-Type": "text/csv", **headers},
    )


async def test_missing_rows_are_inserted_and_existing_rows_stay_as_they_are(service):
    await service.stock("A", 99, name="mine")
    response = await send(service, FILE)
    assert response.status_code == 201
    assert response.json() == {"job": "monday", "created": 1, "skipped": 1}
    assert await service.on_hand("A") == (99, 0)
    assert await service.on_hand("B", "north") == (7, 0)
    row = (await service.client.get("/v1/stock/B/north")).json()
    assert (row["version"], row["name"]) == (1, None)
    items = (await service.client.get("/v1/stock/B/north/movements")).json()["items"]
    assert [(m["kind"], m["available_delta"]) for m in items] == [("import", 7)]


async def test_a_repeated_job_with_the_same_bytes_gets_the_stored_answer(service):
    first = await send(service, FILE)
    await service.client.delete("/v1/stock/A/main")
    again = await send(service, FILE)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert first.json() == again.json() == {"job": "monday", "created": 2, "skipped": 0}
    assert (await service.client.get("/v1/stock/A/main")).status_code == 404


async def test_the_same_job_with_other_bytes_is_422(service):
    await send(service, FILE)
    response = await send(service, FILE + "C,main,1,\n")
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "idempotency_mismatch")
    assert problem["field"] == "content"
    assert (await service.client.get("/v1/stock/C/main")).status_code == 404


async def test_another_job_with_the_same_file_creates_nothing(service):
    await send(service, FILE)
    response = await send(service, FILE, job="tuesday")
    assert (response.status_code, response.json()["created"]) == (201, 0)
    assert response.json()["skipped"] == 2


async def test_a_deleted_row_counts_as_missing_and_continues_from_its_old_version(service):
    await service.stock("A", 1)
    await service.client.delete("/v1/stock/A/main")
    assert (await send(service, FILE)).json()["created"] == 2
    assert (await service.client.get("/v1/stock/A/main")).json()["version"] == 3


@pytest.mark.parametrize(
    "bad",
    [
        "A", "A,main", "A,main,1,name,more", "A,main,-1", "A,main,1.0", "A,main,x", "A,main,",
        ",main,1", " A,main,1", ".,main,1", "A,..,1", "A,main,1000000000001", "A,main,٣",
        "A\x00,main,1", f"{'x' * 129},main,1", "A\x07,main,1", "A,main,1e3", "A,main,0x10",
    ],
)  # fmt: skip
async def test_a_bad_line_is_named_and_nothing_is_written(service, bad):
    lines = ["sku,location,available", *(f"S{n},main,{n}" for n in range(5)), bad, "Z,main,1"]
    response = await send(service, "\n".join(lines))
    problem = response.json()
    assert (response.status_code, problem["code"]) == (400, "invalid_request")
    assert problem["errors"][0]["path"] == "line 7"
    assert (await service.client.get("/v1/stock")).json()["items"] == []
    assert (await send(service, FILE)).status_code == 201


async def test_a_line_that_is_not_utf_8_is_named(service):
    response = await send(service, FILE.encode() + b"\xff,main,1\n")
    assert (response.status_code, response.json()["errors"][0]["path"]) == (400, "line 4")


async def test_a_line_number_counts_the_lines_of_the_file(service):
    content = 'A,main,1,"two\nlines"\nB,main,x\n'
    response = await send(service, content)
    assert response.json()["errors"][0]["path"] == "line 3"


async def test_crlf_quotes_and_a_byte_order_mark_are_accepted(service):
    content = '\ufeffsku,location,available,name\r\n"A,1",main,5,"a ""heart"""\r\n'
    assert (await send(service, content)).status_code == 201
    row = (await service.client.get("/v1/stock/A%2C1/main")).json()
    assert (row["available"], row["name"]) == (5, 'a "heart"')


@pytest.mark.parametrize("params", [{}, {"job": ""}, {"job": " x"}, {"job": "x", "other": "1"}])
async def test_a_job_must_be_named(service, params):
    response = await service.client.post(
        "/v1/imports", params=params, content=FILE, headers={"Content-Type": "text/csv"}
    )
    assert response.status_code == 400
    assert response.json()["errors"][0]["path"] in ("job", "other")


async def test_other_media_types_are_415(service):
    response = await send(service, FILE, **{"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


async def test_the_same_job_sent_many_times_at_once_imports_once(service):
    answers = await asyncio.gather(*(send(service, FILE) for _ in range(16)))
    assert sorted(r.status_code for r in answers) == [200] * 15 + [201]
    assert all(r.json() == answers[0].json() for r in answers)


async def test_two_sources_may_use_the_same_job_name(service):
    other = await service.key("shop-us", "stock")
    await send(service, FILE)
    response = await send(service, "C,main,1\n", **other)
    assert response.status_code == 201


async def test_a_large_file_is_imported_whole(service):
    content = "".join(f"SKU{n},main,{n}\n" for n in range(20_000))
    response = await send(service, content)
    assert response.json() == {"job": "monday", "created": 20_000, "skipped": 0}
    assert await service.on_hand("SKU19999") == (19_999, 0)


# Imports in parts


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(imports, "ROWS_AT_ONCE", 3)


async def test_an_import_in_parts_gets_one_answer(service, small_parts):
    await service.stock("SKU4", 1)
    content = "".join(f"SKU{n},main,{n}\n" for n in range(11))
    response = await send(service, content)
    assert (response.status_code, response.json()) == (
        201, {"job": "monday", "created": 10, "skipped": 1}
    )  # fmt: skip
    again = await send(service, content)
    assert (again.status_code, again.json()) == (200, response.json())
    batches = await service.sql("SELECT DISTINCT xmin FROM movement WHERE kind = 'import'")
    assert len(batches) == 4


async def test_an_interrupted_import_continues_where_it_stopped(service, small_parts):
    content = "".join(f"SKU{n},main,{n}\n" for n in range(11))
    running = service.app.worker.imports
    running.is_ending = True
    stopped = await send(service, content)
    assert (stopped.status_code, stopped.json()["code"]) == (503, "unavailable")
    assert "3 of 11 rows are done" in stopped.json()["detail"]
    running.is_ending = False
    await service.client.delete("/v1/stock/SKU0/main")  # the import must not create it again
    other = await send(service, content + "SKU11,main,1\n")
    assert (other.status_code, other.json()["field"]) == (422, "content")
    response = await send(service, content)
    assert (response.status_code, response.json()) == (
        201, {"job": "monday", "created": 11, "skipped": 0}
    )  # fmt: skip
    assert (await service.client.get("/v1/stock/SKU0/main")).status_code == 404
    assert await service.on_hand("SKU10") == (10, 0)


async def test_the_same_import_through_two_services_at_once_creates_each_row_once(
    service, small_parts
):
    content = "".join(f"SKU{n},main,{n}\n" for n in range(50))
    async with running_service(service.url) as second:
        headers = dict(service.client.headers)
        second.client.headers.update({"Authorization": headers["authorization"]})
        answers = await asyncio.gather(
            *(send(each, content) for each in (service, second) for _ in range(2))
        )
    assert {answer.status_code for answer in answers} == {200, 201}
    assert all(answer.json()["created"] == 50 for answer in answers)
    made = await service.sql("SELECT count(*) FROM movement WHERE kind = 'import'")
    assert made[0][0] == 50


async def test_a_part_whose_connection_is_lost_is_retried(service, small_parts):
    content = "".join(f"SKU{n},main,{n}\n" for n in range(300))
    importing = asyncio.create_task(send(service, content))
    for rows_done in (0, 60, 120, 180):
        while (await service.sql("SELECT coalesce(sum(created), 0) FROM import_job"))[0][
            0
        ] <= rows_done:
            await asyncio.sleep(0.005)
        ended = await service.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert ended
    response = await importing
    assert (response.status_code, response.json()["created"]) == (201, 300)


async def test_too_many_imports_at_once_are_refused(service, monkeypatch):
    monkeypatch.setattr(imports, "SLOT_SECONDS_MAX", 0.01)
    running = service.app.worker.imports
    async with running._slot(), running._slot():
        response = await send(service, FILE)
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    assert (await send(service, FILE)).status_code == 201


async def test_other_requests_run_between_the_parts_of_an_import(service):
    """A reservation during an import of thousands of rows does not wait for the whole import."""
    await service.stock("A", 10)
    content = "".join(f"SKU{n},main,{n}\n" for n in range(20_000))
    importing = asyncio.create_task(send(service, content))
    while not (await service.sql("SELECT 1 FROM import_job")):
        await asyncio.sleep(0.01)
    assert (await service.reserve("1", ("A", 1))).status_code == 201
    assert not importing.done()
    assert (await importing).status_code == 201
