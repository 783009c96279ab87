"""`holdfast key`: create, list, rotate and revoke, by the rules that HTTP has; no log has a key."""

import asyncio
import os
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from click.testing import CliRunner

from service.cli import cli
from tests.preloaded import run_command
from tests.server import running_server

BY_HTTP = {"seq": "1", "source": "shop", "scopes": ["read"]}


@pytest.fixture
def key(database_url):
    """Run `holdfast key …` on the database of the test."""

    async def run(*arguments):
        environment = {**os.environ, "HOLDFAST_DATABASE_URL": database_url}
        return await asyncio.to_thread(run_command, "key", *arguments, environment=environment)

    return run


def last_word(ran):
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()[-1]


async def listed(key):
    """The lines of `key list` as columns, by id."""
    ran = await key("list")
    assert ran.returncode == 0, ran.stderr
    heading, *lines = ran.stdout.splitlines()
    starts = [heading.index(name) for name in (
        "id", "prefix", "source", "scopes", "label", "created", "expires", "last used", "state"
    )]  # fmt: skip
    columns = [
        [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        for line in lines
    ]
    return {id_: more for id_, *more in columns}


async def works(service, value):
    answer = await service.client.get("/v1/stock", headers={"Authorization": f"Bearer {value}"})
    return answer.status_code == 200


async def test_a_key_with_label_and_expiry_works_and_is_listed(service, key):
    ran = await key(
        "create", "--source", "shop", "--scope", "reserve", "--scope", "read",
        "--expires", "90d", "--label", "till 7",
    )  # fmt: skip
    value = last_word(ran)
    assert await works(service, value)
    id_ = ran.stderr.split()[1]
    prefix, source, scopes, label, created, expires, used, state = (await listed(key))[id_]
    assert (prefix, source, scopes, label, state) == (
        value[:8], "shop", "read,reserve", "till 7", "valid"
    )  # fmt: skip
    lifetime = datetime.fromisoformat(expires) - datetime.fromisoformat(created)
    assert lifetime == timedelta(days=90)
    assert used == datetime.now(UTC).isoformat(timespec="minutes").replace("+00:00", "Z")[:16] + "Z"
    assert value not in (await key("list")).stdout


async def test_a_rotation_prints_the_new_key_and_the_grace_ends_the_old_one(service, key):
    old = last_word(await key("create", "--source", "shop", "--scope", "read"))
    (old_id,) = [id_ for id_, line in (await listed(key)).items() if line[1] == "shop"]
    ran = await key("rotate", old_id, "--grace", "0s")
    new, new_id = last_word(ran), ran.stderr.split()[1]
    assert await works(service, new)
    async with asyncio.timeout(10):
        while await works(service, old):
            await asyncio.sleep(0.01)
    lines = await listed(key)
    assert lines[old_id][-1] == "expired"
    assert (lines[new_id][5], lines[new_id][-1]) == ("never", "valid")
    again = await key("rotate", old_id)
    assert (again.returncode, again.stdout) == (1, "")
    assert "expired" in again.stderr


async def test_revoking_is_repeatable_but_spares_the_last_lasting_admin_key(service, key):
    (own,) = (await service.client.get("/v1/keys")).json()["items"]
    refused = await key("revoke", own["id"])
    assert refused.returncode == 1
    assert "last valid admin key that does not expire" in refused.stderr
    other = await key("create", "--scope", "admin")
    for _ in range(2):
        assert (await key("revoke", own["id"])).returncode == 0
    assert (await listed(key))[own["id"]][-1] == "revoked"
    assert await works(service, last_word(other))
    last = other.stderr.split()[1]
    assert (await key("revoke", last)).returncode == 1


async def test_http_and_the_command_line_revoke_each_other_at_once_and_one_key_remains(
    service, key
):
    (own,) = (await service.client.get("/v1/keys")).json()["items"]
    other = (await key("create", "--scope", "admin")).stderr.split()[1]
    by_command, by_http = await asyncio.gather(
        key("revoke", own["id"]), service.client.delete(f"/v1/keys/{other}")
    )
    assert (by_command.returncode, by_http.status_code) in [(0, 409), (0, 401), (1, 204)]
    valid = [line for line in (await listed(key)).values() if line[-1] == "valid"]
    assert len(valid) == 1


async def test_an_unknown_key_is_reported_in_one_sentence(database, key):
    for command in ("rotate", "revoke"):
        ran = await key(command, "00000000-0000-4000-8000-000000000001")
        assert ran.returncode == 1
        assert "there is no key 00000000-0000-4000-8000-000000000001" in ran.stderr


async def test_a_label_can_not_disturb_the_terminal(service, key):
    label = "a\x1b[2J\n\u202eb"
    answer = await service.client.post("/v1/keys", json={**BY_HTTP, "label": label})
    assert answer.status_code == 201
    line = (await listed(key))[answer.json()["id"]]
    assert line[3] == "a\\x1b[2J\\n\\u202eb"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--expires", "0d", "--expires must be longer than 0"),
        ("--expires", "90", "write 90d, 12h, 30m or 45s"),
        ("--expires", "-1d", "write 90d, 12h, 30m or 45s"),
        ("--expires", "1.5d", "write 90d, 12h, 30m or 45s"),
        ("--expires", "36501d", "longer than the 36500 days"),
        ("--expires", "9999999999d", "longer than the 36500 days"),
        ("--label", "x" * 129, "--label has more than 128 characters"),
        ("--label", "\x00", "--label must not contain the control character"),
    ],
)
def test_a_wrong_option_is_explained_before_the_database_is_asked(option, value, message):
    arguments = ["key", "create", "--scope", "admin", option, value]
    result = CliRunner().invoke(
        cli, [*arguments, "--database-url", "postgresql://nowhere.invalid/x"]
    )
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_grace_beyond_its_bound_is_explained():
    arguments = ["key", "rotate", "00000000-0000-4000-8000-000000000001", "--grace", "31d"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "31d is longer than the 30 days that are allowed" in result.output


async def test_no_line_of_the_log_has_a_key(database_url):
    with running_server(database_url, log_format="json") as server:
        made = []
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers) as client:
            made.append((await client.post("/v1/keys", json=BY_HTTP)).json())
            address = f"/v1/keys/{made[0]['id']}"
            rotated = await client.post(f"{address}/rotate", json={"seq": "2"})
            made.append(rotated.json())
            assert (await client.delete(address)).status_code == 204
            for each in made:
                headers = {"Authorization": f"Bearer {each['key']}"}
                refused = await client.get("/v1/keys", headers=headers)
                assert refused.status_code in (401, 403)
        log = server.log.read_text()
    assert "refused" in log
    assert all(key not in log for key in (server.key, *(each["key"] for each in made)))
