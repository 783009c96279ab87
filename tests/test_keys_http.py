"""Keys over HTTP: created once for each seq, listed without secrets, rotated and revoked."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from db.queries import credentials
from service.http.compression import COMPRESSED_FROM
from tests.conftest import running_service

WANTED = {"seq": "1", "source": "shop-us", "scopes": ["reserve", "read"]}
MEMBERS = {
    "id", "prefix", "source", "scopes", "label", "created_at", "expires_at", "last_used_at"
}  # fmt: skip
UNKNOWN = "/v1/keys/00000000-0000-4000-8000-000000000001"


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def in_future(**time):
    return (datetime.now(UTC) + timedelta(**time)).isoformat()


def moment(text):
    return datetime.fromisoformat(text)


async def create(service, **more):
    """Create a key; return the answer's body."""
    response = await service.client.post("/v1/keys", json={**WANTED, **more})
    assert response.status_code == 201, response.text
    return response.json()


async def rotate(service, id_, seq, **more):
    return await service.client.post(f"/v1/keys/{id_}/rotate", json={"seq": seq, **more})


async def lasting_admins(service):
    """The number of valid admin keys that do not expire."""
    return len(
        await service.sql(
            "SELECT 1 FROM api_key WHERE scopes @> '{admin}' AND revoked_at IS NULL"
            " AND expires_at IS NULL"
        )
    )


async def works(service, key):
    return (await service.client.get("/v1/stock", headers=bearer(key))).status_code == 200


async def test_a_new_key_is_shown_once_and_works_at_once(service):
    response = await service.client.post("/v1/keys", json={**WANTED, "label": "checkout"})
    body = response.json()
    assert response.status_code == 201
    assert set(body) == MEMBERS | {"key"}
    assert response.headers["Location"] == f"/v1/keys/{body['id']}"
    assert body["key"].startswith("hf_")
    assert body["key"].startswith(body["prefix"])
    assert len(body["prefix"]) == 8
    assert (body["source"], body["scopes"], body["label"]) == (
        "shop-us", ["reserve", "read"], "checkout"
    )  # fmt: skip
    assert (body["expires_at"], body["last_used_at"]) == (None, None)
    assert await works(service, body["key"])
    shown = (await service.client.get(response.headers["Location"])).json()
    assert set(shown) == MEMBERS


async def test_a_repeated_request_gets_the_key_as_it_is_now_without_its_secret(service):
    created = await create(service)
    await works(service, created["key"])
    again = await service.client.post("/v1/keys", json=WANTED)
    assert again.status_code == 200
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == f"/v1/keys/{created['id']}"
    assert set(again.json()) == MEMBERS
    assert again.json()["id"] == created["id"]
    assert again.json()["last_used_at"] is not None
    assert created["key"] not in again.text
    assert len(await service.sql("SELECT 1 FROM api_key WHERE source = 'shop-us'")) == 1


async def test_the_order_of_scopes_and_the_offset_of_the_expiry_do_not_matter(service):
    first = {**WANTED, "expires_at": "2099-01-01T01:00:00+01:00"}
    second = {**WANTED, "scopes": ["read", "reserve"], "expires_at": "2099-01-01T00:00:00Z"}
    assert (await service.client.post("/v1/keys", json=first)).status_code == 201
    assert (await service.client.post("/v1/keys", json=second)).status_code == 200


@pytest.mark.parametrize(
    ("other", "field", "stored", "sent"),
    [
        ({"source": "shop-eu"}, "source", "shop-us", "shop-eu"),
        ({"scopes": ["read"]}, "scopes", ["read", "reserve"], ["read"]),
        ({"label": "till"}, "label", None, "till"),
        ({"expires_at": "2099-01-01T00:00:00Z"}, "expires_at", None, "2099-01-01T00:00:00Z"),
    ],
)
async def test_other_content_under_a_known_seq_is_422(service, other, field, stored, sent):
    await create(service)
    response = await service.client.post("/v1/keys", json={**WANTED, **other})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "idempotency_mismatch")
    assert (problem["field"], problem["stored"], problem["sent"]) == (field, stored, sent)


async def test_the_seq_belongs_to_the_source_of_the_caller(service):
    await create(service)
    other = await service.key("another", "admin")
    assert (await service.client.post("/v1/keys", json=WANTED, headers=other)).status_code == 201


async def test_the_header_idempotency_key_may_replace_the_seq(service):
    wanted = {name: value for name, value in WANTED.items() if name != "seq"}
    headers = {"Idempotency-Key": "1"}
    first = await service.client.post("/v1/keys", json=wanted, headers=headers)
    assert first.status_code == 201
    address = f"{first.headers['Location']}/rotate"
    assert (await service.client.post(address, headers={"Idempotency-Key": "2"})).status_code == 201
    assert (await service.client.post(address)).status_code == 400
    assert (await service.client.post("/v1/keys", json=wanted)).status_code == 400


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("source", None, "must be text, in quotes"),
        ("source", " x", "must not begin with a space"),
        ("scopes", [], "must not be empty"),
        ("scopes", ["read", "read"], "must name each scope once"),
        ("scopes", ["read"] * 9, "has more than 4 items"),
        ("scopes", ["read"] * 9_000, "has more than 4 items"),
        ("scopes", "read", "must be a list"),
        ("label", "x" * 129, "has more than 128 characters"),
        ("label", 1, "must be text, in quotes"),
        ("expires_at", "2099-01-01T00:00:00", "must be a moment like 2026-11-22T19:20:00Z"),
        ("expires_at", 4_000_000_000, "must be a moment like 2026-11-22T19:20:00Z"),
        ("expires_at", "4000000000", "must be a moment like 2026-11-22T19:20:00Z"),
        ("expires_at", "0001-01-01T00:00:00+14:00", "must be a moment like 2026-11-22T19:20:00Z"),
        ("expires_at", "2020-01-01T00:00:00Z", "must be in the future, before the year 9999"),
        ("expires_at", "9999-12-31T23:59:59Z", "must be in the future, before the year 9999"),
    ],
)
async def test_a_wrong_value_is_400_and_names_its_member(service, member, value, message):
    response = await service.client.post("/v1/keys", json={**WANTED, member: value})
    assert response.status_code == 400
    assert response.json()["errors"] == [{"path": member, "message": message}]


async def test_an_unknown_scope_is_400_and_lists_the_known_ones(service):
    response = await service.client.post("/v1/keys", json={**WANTED, "scopes": ["write"]})
    assert response.json()["errors"] == [
        {"path": "scopes[0]", "message": "must be one of 'reserve', 'stock', 'read' or 'admin'"}
    ]


async def test_the_stored_answer_comes_before_the_check_of_the_expiry(service):
    wanted = {**WANTED, "expires_at": in_future(days=1)}
    assert (await service.client.post("/v1/keys", json=wanted)).status_code == 201
    await service.sql(
        "UPDATE api_key SET expires_at = now(),"
        " content = jsonb_set(content::jsonb, '{expires_at}', '\"2020-01-01T00:00:00Z\"')::json"
        " WHERE source = 'shop-us'"
    )
    past = {**WANTED, "expires_at": "2020-01-01T00:00:00Z"}
    assert (await service.client.post("/v1/keys", json=past)).status_code == 200


async def test_of_equal_requests_at_once_one_makes_the_key_and_the_others_get_the_replay(service):
    answers = await asyncio.gather(
        *(service.client.post("/v1/keys", json=WANTED) for _ in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("key" in answer.json() for answer in answers) == 1
    assert len(await service.sql("SELECT 1 FROM api_key WHERE source = 'shop-us'")) == 1


async def test_keys_are_listed_in_order_of_creation_and_by_source(service):
    made = [await create(service, seq=str(n)) for n in range(3)]
    await service.client.delete(f"/v1/keys/{made[0]['id']}")
    first = (await service.client.get("/v1/keys?source=shop-us&limit=2")).json()
    cursor = first["next_cursor"]
    rest = (await service.client.get(f"/v1/keys?source=shop-us&limit=2&cursor={cursor}")).json()
    items = [*first["items"], *rest["items"]]
    assert [item["id"] for item in items] == [each["id"] for each in made]
    assert rest["next_cursor"] is None
    assert set(items[0]) == MEMBERS | {"revoked_at"}
    assert set(items[1]) == MEMBERS
    everyone = (await service.client.get("/v1/keys")).json()["items"]
    assert {item["source"] for item in everyone} == {"shop-eu", "shop-us"}


async def test_no_key_and_no_digest_is_in_a_list(service):
    created = await create(service)
    await rotate(service, created["id"], "2")
    text = (await service.client.get("/v1/keys")).text
    assert "hf_" in text
    assert created["key"] not in text
    assert "digest" not in text
    assert "content" not in text


async def test_an_answer_with_a_key_is_never_compressed_nor_stored(service):
    wide = {"source": "\U0001f600" * 128, "label": "\x01" * 128}
    gzip = {"Accept-Encoding": "gzip"}
    created = await service.client.post("/v1/keys", json={**WANTED, **wide}, headers=gzip)
    address = f"{created.headers['Location']}/rotate"
    rotated = await service.client.post(address, json={"seq": "2"}, headers=gzip)
    for response in (created, rotated):
        assert response.status_code == 201
        assert len(response.content) > COMPRESSED_FROM
        assert "Content-Encoding" not in response.headers
        assert response.headers["Cache-Control"] == "no-store"
    listed = await service.client.get("/v1/keys", headers=gzip)
    assert listed.headers["Content-Encoding"] == "gzip"


async def test_a_revoked_key_stops_working_and_can_be_revoked_again(service):
    created = await create(service)
    assert await works(service, created["key"])
    for _ in range(2):
        assert (await service.client.delete(f"/v1/keys/{created['id']}")).status_code == 204
    async with asyncio.timeout(10):
        while await works(service, created["key"]):
            await asyncio.sleep(0.01)
    shown = (await service.client.get(f"/v1/keys/{created['id']}")).json()
    again = (await service.client.post("/v1/keys", json=WANTED)).json()
    assert moment(shown["revoked_at"]) >= moment(shown["created_at"])
    assert again == shown


@pytest.mark.parametrize("address", [UNKNOWN, "/v1/keys/1", "/v1/keys/hf_x"])
async def test_an_unknown_key_is_404(service, address):
    for response in (
        await service.client.get(address),
        await service.client.delete(address),
        await service.client.post(f"{address}/rotate", json={"seq": "1"}),
    ):
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_rotation_makes_an_equal_key_and_the_old_one_lives_on_for_the_grace(service):
    created = await create(service, label="checkout")
    response = await rotate(service, created["id"], "2", grace_seconds=3600)
    new = response.json()
    assert response.status_code == 201
    assert response.headers["Location"] == f"/v1/keys/{new['id']}"
    assert set(new) == MEMBERS | {"key"}
    for member in ("source", "scopes", "label", "expires_at"):
        assert new[member] == created[member]
    assert new["id"] != created["id"]
    assert new["key"] != created["key"]
    assert await works(service, new["key"])
    assert await works(service, created["key"])
    old = (await service.client.get(f"/v1/keys/{created['id']}")).json()
    assert moment(old["expires_at"]) - moment(new["created_at"]) == timedelta(hours=1)


async def test_the_grace_is_a_day_and_does_not_outlive_the_expiry_of_the_old_key(service):
    lasting, ending = (
        await create(service),
        await create(service, seq="2", expires_at=in_future(minutes=1)),
    )
    for created, seq in ((lasting, "3"), (ending, "4")):
        new = (await rotate(service, created["id"], seq)).json()
        old = (await service.client.get(f"/v1/keys/{created['id']}")).json()
        if created is lasting:
            assert moment(old["expires_at"]) - moment(new["created_at"]) == timedelta(days=1)
        else:
            assert old["expires_at"] == ending["expires_at"]


async def test_the_new_key_gets_the_lifetime_that_the_old_one_was_made_with(service):
    created = await create(service, expires_at=in_future(days=90))
    lifetime = moment(created["expires_at"]) - moment(created["created_at"])
    for seq in ("2", "3"):  # the second rotation of the same key finds it in its grace
        new = (await rotate(service, created["id"], seq, grace_seconds=60)).json()
        assert moment(new["expires_at"]) - moment(new["created_at"]) == lifetime
    again = (await rotate(service, new["id"], "4")).json()
    assert moment(again["expires_at"]) - moment(again["created_at"]) == lifetime


async def test_a_key_without_expiry_has_successors_without_expiry(service):
    created = await create(service)
    for seq in ("2", "3"):
        assert (await rotate(service, created["id"], seq)).json()["expires_at"] is None


async def test_a_lifetime_that_would_pass_the_last_year_ends_before_it(service):
    created = await create(service, expires_at="9998-12-31T23:59:59.999999Z")
    response = await rotate(service, created["id"], "2")
    assert response.status_code == 201
    assert response.json()["expires_at"] == "9999-01-01T00:00:00Z"
    assert await works(service, response.json()["key"])


async def test_without_a_grace_the_old_key_ends_at_once(service):
    created = await create(service)
    await works(service, created["key"])
    assert (await rotate(service, created["id"], "2", grace_seconds=0)).status_code == 201
    async with asyncio.timeout(10):
        while await works(service, created["key"]):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("grace", [-1, 2_592_001, 1.5, "1"])
async def test_a_grace_out_of_its_bounds_is_400(service, grace):
    created = await create(service)
    response = await rotate(service, created["id"], "2", grace_seconds=grace)
    assert response.status_code == 400
    assert response.json()["errors"][0]["path"] == "grace_seconds"


async def test_a_repeated_rotation_gets_the_new_key_without_its_secret(service):
    created = await create(service)
    new = (await rotate(service, created["id"], "2", grace_seconds=0)).json()
    again = await rotate(service, created["id"], "2", grace_seconds=0)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (200, "true")
    assert again.json()["id"] == new["id"]
    assert set(again.json()) == MEMBERS


async def test_of_equal_rotations_at_once_one_makes_the_key_and_the_others_get_the_replay(service):
    created = await create(service)
    answers = await asyncio.gather(
        *(rotate(service, created["id"], "2", grace_seconds=0) for _ in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_a_rotation_that_an_equal_one_overtakes_gets_its_answer(service, monkeypatch):
    created, overtaking = await create(service), []

    def overtaken(read):
        async def read_and_be_overtaken(*arguments):
            found = await read(*arguments)
            if not overtaking:
                overtaking.append(None)
                overtaking[0] = await rotate(service, created["id"], "2", grace_seconds=0)
            return found

        return read_and_be_overtaken

    for name in ("find_by_id", "find_by_identity"):
        monkeypatch.setattr(credentials, name, overtaken(getattr(credentials, name)))
    late = await rotate(service, created["id"], "2", grace_seconds=0)
    assert (overtaking[0].status_code, late.status_code) == (201, 200)
    assert late.json()["id"] == overtaking[0].json()["id"]


async def test_a_seq_names_one_rotation_or_one_creation(service):
    one, other = await create(service), await create(service, seq="2")
    await rotate(service, one["id"], "3")
    for response, field in (
        (await rotate(service, other["id"], "3"), "key_id"),
        (await rotate(service, one["id"], "3", grace_seconds=1), "grace_seconds"),
        (await rotate(service, one["id"], "2"), "key_id"),
        (await rotate(service, UNKNOWN.rpartition("/")[2], "3"), "key_id"),
        (await service.client.post("/v1/keys", json={**WANTED, "seq": "3"}), "source"),
    ):
        assert (response.status_code, response.json()["field"]) == (422, field)


async def test_rotations_of_two_keys_with_one_seq_at_once_make_one_key(service):
    made = [await create(service, seq=str(n)) for n in range(4)]
    answers = await asyncio.gather(*(rotate(service, each["id"], "r") for each in made))
    assert sorted(answer.status_code for answer in answers) == [201, 422, 422, 422]
    ended = await service.sql("SELECT id FROM api_key WHERE expires_at IS NOT NULL")
    assert len(ended) == 1


async def test_a_revoked_or_expired_key_can_not_be_rotated(service):
    revoked, expired = await create(service), await create(service, seq="2")
    await service.client.delete(f"/v1/keys/{revoked['id']}")
    await rotate(service, expired["id"], "3", grace_seconds=0)
    for created, state in ((revoked, "revoked"), (expired, "expired")):
        response = await rotate(service, created["id"], f"late-{state}")
        problem = response.json()
        assert (response.status_code, problem["code"]) == (409, "illegal_transition")
        assert (problem["state"], problem["allowed"]) == (state, [])
        assert (problem["retryable"], problem["same_seq"]) == (False, True)
    assert (await service.client.delete(f"/v1/keys/{expired['id']}")).status_code == 204


async def test_the_last_admin_key_that_does_not_expire_can_not_be_revoked(service):
    (own,) = (await service.client.get("/v1/keys")).json()["items"]
    await create(service, scopes=["admin"], expires_at=in_future(days=1))
    await create(service, seq="2", scopes=["reserve", "stock", "read"])
    refused = await service.client.delete(f"/v1/keys/{own['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "last_admin_key")
    assert (refused.json()["retryable"], refused.json()["same_seq"]) == (False, True)
    another = await create(service, seq="3", scopes=["admin"])
    assert (await service.client.delete(f"/v1/keys/{own['id']}")).status_code == 204
    refused = await service.client.delete(
        f"/v1/keys/{another['id']}", headers=bearer(another["key"])
    )
    assert refused.json()["code"] == "last_admin_key"


async def test_the_last_admin_key_can_be_rotated_and_its_successor_is_then_the_last(service):
    (own,) = (await service.client.get("/v1/keys")).json()["items"]
    new = (await rotate(service, own["id"], "1")).json()
    assert (await service.client.delete(f"/v1/keys/{new['id']}")).status_code == 409
    assert (await service.client.delete(f"/v1/keys/{own['id']}")).status_code == 204
    assert await works(service, new["key"])


async def test_of_admin_keys_that_are_all_revoked_at_once_one_remains(service):
    (own,) = (await service.client.get("/v1/keys")).json()["items"]
    made = [await create(service, seq=str(n), scopes=["admin"]) for n in range(5)]
    ending = await create(service, seq="e", scopes=["admin"], expires_at=in_future(days=1))
    answers = await asyncio.gather(
        *(
            service.client.delete(f"/v1/keys/{each['id']}", headers=bearer(ending["key"]))
            for each in [own, *made]
        )
    )
    assert sorted(answer.status_code for answer in answers) == [204] * 5 + [409]
    assert await lasting_admins(service) == 1


async def test_two_services_that_revoke_each_others_admin_leave_one(service, database_url):
    (own,) = (await service.client.get("/v1/keys")).json()["items"]
    async with running_service(database_url) as other:
        items = (await service.client.get("/v1/keys")).json()["items"]
        (theirs,) = [item for item in items if item["id"] != own["id"]]
        answers = await asyncio.gather(
            service.client.delete(f"/v1/keys/{theirs['id']}"),
            other.client.delete(f"/v1/keys/{own['id']}"),
        )
        done, refused = sorted(answer.status_code for answer in answers)
        # The key of the slower one is revoked: it may be noticed before the request is carried out.
        assert (done, refused in (401, 409)) == (204, True)
        assert await lasting_admins(service) == 1
