"""The address of a database is read as libpq reads it, and no part of a password is ever shown."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy import text as sql

from db.migrate import upgrade
from db.session.address import connection_arguments, read_address
from db.session.address_text import AddressError
from db.session.database import Database, StoreUnavailable
from tests.brokers import running_pgbouncer
from tests.conftest import named
from tests.preloaded import run_command

ENCODE = "percent-encode it: %2F for /"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)


def parts(text: str) -> tuple[Any, ...]:
    address = read_address(text)
    told = address.parameters
    return told.get("user"), told.get("password"), address.hosts, told.get("dbname")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://u:p@h:5433/d", ("u", "p", (("h", 5433),), "d")),
        ("postgres://u:p@h:5433/d", ("u", "p", (("h", 5433),), "d")),
        ("postgresql+asyncpg://u:p@h/d", ("u", "p", (("h", None),), "d")),
        ("  postgresql://u:p@h/d\n", ("u", "p", (("h", None),), "d")),
        ("postgresql://u@/d", ("u", None, ((None, None),), "d")),
        ("postgresql://", (None, None, ((None, None),), None)),
        ("postgresql:///d?host=/tmp&user=u", ("u", None, (("/tmp", None),), "d")),
        ("postgresql://u@%2Frun%2Fpostgresql/d", ("u", None, (("/run/postgresql", None),), "d")),
        ("postgresql://u:p%2Fa%40b%25@h/d", ("u", "p/a@b%", (("h", None),), "d")),
        ("postgresql://u:p?a#b:c&d@h/d", ("u", "p?a#b:c&d", (("h", None),), "d")),
        ("postgresql://h1:1,h2:2,h3/d", (None, None, (("h1", 1), ("h2", 2), ("h3", None)), "d")),
        ("postgresql://u@[::1]:5433/d", ("u", None, (("::1", 5433),), "d")),
        ("postgresql://[::1],[fe80::1]:2/d", (None, None, (("::1", None), ("fe80::1", 2)), "d")),
        ("postgresql://h/d?port=7&dbname=e", (None, None, (("h", 7),), "e")),
        ("postgresql://h1,h2/d?port=7", (None, None, (("h1", 7), ("h2", 7)), "d")),
        ("host=h port=5433 user=u password=p dbname=d", ("u", "p", (("h", 5433),), "d")),
        ("host = h  user='u' password='it\\'s \\\\ a' ", ("u", "it's \\ a", (("h", None),), None)),
        ("host=a,b port=1,2 password=", (None, "", (("a", 1), ("b", 2)), None)),
        ("host=a,b port=1", (None, None, (("a", 1), ("b", 1)), None)),
        ("host=/tmp dbname=d\\ e", (None, None, (("/tmp", None),), "d e")),
        ("hostaddr=10.0.0.1 host=h", (None, None, (("10.0.0.1", None),), None)),
        ("hostaddr=10.0.0.1 host=h sslmode=verify-full", (None, None, (("h", None),), None)),
    ],
)  # fmt: skip
def test_every_form_of_an_address_is_read(text, expected):
    assert parts(text) == expected


@pytest.mark.parametrize(
    "parameter",
    [
        "channel_binding=require", "connect_timeout=10", "keepalives=1", "keepalives_idle=30",
        "keepalives_interval=10", "keepalives_count=3", "tcp_user_timeout=1", "gssencmode=prefer",
        "application_name=shop", "fallback_application_name=shop", "load_balance_hosts=random",
        "client_encoding=auto", "sslcompression=0", "sslsni=1", "require_auth=scram-sha-256",
        "requirepeer=postgres", "sslcertmode=allow", "krbsrvname=postgres", "replication=false",
    ],
)  # fmt: skip
def test_a_parameter_that_only_libpq_needs_is_accepted(parameter):
    for text in (f"postgresql://u@h/d?{parameter}", f"user=u host=h dbname=d {parameter}"):
        assert parts(text) == ("u", None, (("h", None),), "d")


@pytest.mark.parametrize(
    ("parameter", "unenforced"),
    [
        ("channel_binding=require", True),
        ("channel_binding=prefer", False),
        ("require_auth=scram-sha-256", True),
        ("gssencmode=disable", False),
        ("sslmode=verify-full", False),
    ],
)
def test_a_demand_that_the_driver_cannot_meet_gives_a_warning(parameter, unenforced):
    warnings = read_address(f"postgresql://h/d?{parameter}").warnings
    assert [parameter in each for each in warnings] == [True] * unenforced


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("postgresql://u:sec/ret@h/d", ENCODE),
        ("postgresql://u:12/secret@h/d", ENCODE),
        ("postgresql://u:sec@ret@h/d", ENCODE),
        ("postgresql://u:secret%@h/d", ENCODE),
        ("postgresql://u:secret%zz@h/d", ENCODE),
        ("postgresql://u:secret%00@h/d", ENCODE),
        ("postgresql://u:secret%ff@h/d", ENCODE),
        ("postgresql://u:sec/ret?secret=1@h/d", ENCODE),
        ("postgresql://u:5432/x?secret=1@h/d", "clients don't know"),
        ("postgresql://u:sec/[ret@h/d", ENCODE),
        ("postgresql://h:secret/d", "its port is not a number"),
        ("postgresql://h:0/d", "its port is not a number"),
        ("postgresql://h:99999/d", "its port is not a number"),
        ("postgresql://h/d?secret", "not name=value"),
        ("postgresql://h/d?sslmod=secret", "clients don't know"),
        ("postgresql://h/d?sslmode=secret", "one of disable, allow"),
        ("postgresql://h/d?target_session_attrs=standby", "one of any, read-write, primary"),
        ("postgresql://h1,h2/d?port=1,2,3", "2 hosts and 3 ports"),
        ("mysql://u:secret@h/d?a=b", "neither postgresql://"),
        ("secret", "neither postgresql://"),
        ("", "neither postgresql://"),
        ("host=h password=my secret", "in single quotes"),
        ("host=h password='secret", "in single quotes"),
        ("host=h password=my secret=1", "clients don't know"),
        ("host=h options='-c secret'", "as -c name=value"),
    ],
)
def test_the_error_for_an_unreadable_address_contains_no_part_of_it(text, says):
    with pytest.raises(AddressError) as refusal:
        _ = read_address(text).settings
    assert says in str(refusal.value)
    assert "sec" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_repr_of_an_address_contains_no_part_of_it():
    assert "secret" not in repr(read_address("postgresql://u:secret@secret-host/d"))


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("-c search_path=shop", {"search_path": "shop"}),
        ("-csearch_path=a,b --work-mem=8MB", {"search_path": "a,b", "work_mem": "8MB"}),
        ("-c a.b=x\\ y\\\\z", {"a.b": "x y\\z"}),
        ("", {}),
    ],
)  # fmt: skip
def test_options_are_settings(monkeypatch, options, settings):
    quoted = options.replace("\\", "\\\\")
    assert read_address(f"host=h options='{quoted}'").settings == settings
    monkeypatch.setenv("PGOPTIONS", options)
    assert read_address("host=h").settings == settings


def test_the_address_of_another_database_on_the_same_server_can_be_derived():
    address = read_address("postgresql://u:it's%20a%5Cpassword@h1:1,h2/d?sslmode=disable")
    again = read_address(address.named("e'f"))
    assert again.hosts == address.hosts
    assert again.parameters == {**address.parameters, "dbname": "e'f"}


@pytest.mark.parametrize(
    ("text", "attribute", "needs"),
    [
        ("host=h", "", (True, True)),
        ("host=h target_session_attrs=any", "primary", (False, False)),
        ("host=h", "primary", (True, False)),
    ],
)
def test_the_server_must_be_writable_unless_the_address_says_otherwise(
    monkeypatch, text, attribute, needs
):
    monkeypatch.setenv("PGTARGETSESSIONATTRS", attribute)
    address = read_address(text)
    assert (address.needs_primary, address.needs_writable) == needs


def test_an_address_without_a_user_is_an_error_if_the_user_id_has_no_name(monkeypatch):
    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 123456")

    monkeypatch.setattr("getpass.getuser", fail)
    assert connection_arguments("postgresql://u@h/d")["user"] == "u"
    with pytest.raises(AddressError, match="names no user"):
        connection_arguments("postgresql://h/d")


async def answers(address: str) -> str:
    """The name of the database behind an address, read through a connection of the service."""
    database = Database(address, pool_size=3)
    try:
        return await database.read(name_of_database)
    finally:
        await database.close()


async def name_of_database(connection: Any) -> str:
    return str(await connection.scalar(sql("SELECT current_database()")))


@pytest.fixture
def told(postgres_url: str) -> dict[str, Any]:
    """The connection parameters of the tests' server."""
    return connection_arguments(postgres_url)


async def test_keywords_and_values_lead_to_the_database(told, postgres_url):
    address = (
        f"host={told['host']} port={told['port']} user={told['user']}"
        f" password={told['password']} dbname=postgres connect_timeout=3 gssencmode=disable"
    )
    assert await answers(address) == "postgres"
    assert await answers(f"{named(postgres_url, 'postgres')}?channel_binding=require") == "postgres"


async def test_the_first_of_several_hosts_that_answers_is_used(told):
    address = (
        f"postgresql://{told['user']}:{told['password']}"
        f"@127.0.0.1:1,{told['host']}:{told['port']}/postgres"
    )
    assert await answers(address) == "postgres"


async def test_the_variables_supply_the_parts_that_the_address_leaves_out(
    told, monkeypatch, tmp_path
):
    passfile = tmp_path / "passwords"
    passfile.write_text(f"*:*:*:*:{told['password']}\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGHOST", str(told["host"]))
    monkeypatch.setenv("PGPORT", str(told["port"]))
    monkeypatch.setenv("PGUSER", str(told["user"]))
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    assert await answers("postgresql:///postgres") == "postgres"
    monkeypatch.setenv("PGPORT", "not-a-port")
    with pytest.raises(AddressError, match=r"or in the PG\* variable"):
        await answers("postgresql:///postgres")


async def test_a_service_file_leads_to_the_database(told, monkeypatch, tmp_path):
    file = tmp_path / "services"
    file.write_text(
        "[shop]\n"
        + "".join(f"{name}={told[name]}\n" for name in ("host", "port", "user", "password"))
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    assert await answers("service=shop dbname=postgres") == "postgres"
    monkeypatch.setenv("PGSERVICE", "shop")
    assert await answers("postgresql:///postgres") == "postgres"


@pytest.fixture
def open_directory() -> Iterator[str]:
    """A directory in which another user can make a socket."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        yield directory


async def test_a_socket_leads_to_the_database(postgres_url, open_directory):
    """It is a socket of PgBouncer, because the tests' server has none."""
    directory = open_directory
    with running_pgbouncer(named(postgres_url, "postgres"), unix_socket_dir=directory) as url:
        port = read_address(url).hosts[0][1]
        for address in (
            f"postgresql://u@{quote(directory, safe='')}:{port}/postgres",
            f"postgresql:///postgres?host={directory}&port={port}&user=u",
            f"host={directory} port={port} user=u dbname=postgres",
        ):
            assert await answers(address) == "postgres"


@pytest.mark.parametrize(
    ("parameters", "failure", "says"),
    [
        ("sslmode=require", StoreUnavailable, "rejected SSL upgrade"),
        ("requiressl=1", StoreUnavailable, "rejected SSL upgrade"),
        ("sslrootcert=system", StoreUnavailable, "rejected SSL upgrade"),
        ("sslmode=verify-full&sslrootcert=/nowhere", StoreUnavailable, "No such file"),
        ("sslmode=prefer&sslnegotiation=direct", AddressError, "direct TLS requires"),
    ],
)
async def test_the_server_must_offer_the_tls_that_the_address_requires(
    postgres_url, parameters, failure, says
):
    """The tests' server has no TLS."""
    with pytest.raises(failure) as refusal:
        await answers(f"{postgres_url}?{parameters}")
    assert says in f"{refusal.value} ({refusal.value.__cause__})"
    assert await answers(f"{named(postgres_url, 'postgres')}?sslmode=disable") == "postgres"


async def test_options_in_the_address_are_in_force(told, postgres_url):
    async def search_path(connection: Any) -> str:
        return str(await connection.scalar(sql("SHOW search_path")))

    database = Database(f"{postgres_url}?options=-csearch_path%3Dpg_temp,public", pool_size=3)
    assert await database.read(search_path) == "pg_temp,public"
    await database.close()


async def test_the_address_for_migrations_is_read_in_the_same_way(postgres_url):
    database = Database(postgres_url, pool_size=3)
    with pytest.raises(AddressError, match=r"MIGRATE_DATABASE_URL\) can't be read"):
        await upgrade(database, "postgresql://u:sec/ret@h/d")
    await database.close()


COMMANDS = ["serve", "db upgrade", "key list", "key create --scope admin", "audit", "lab --quick"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "address", ["postgresql://u:top/secret@127.0.0.1/d", "postgresql://u:topsecret@127.0.0.1:1/d"]
)
def test_no_command_shows_a_traceback_or_a_password(command, address, tmp_path):
    """The first address can't be read, and at the second there is no server."""
    settings = {"HOLDFAST_DATABASE_URL": address, "HOLDFAST_DATA_DIR": str(tmp_path)}
    run = run_command(*command.split(), environment={**os.environ, **settings})
    told = run.stdout + run.stderr
    assert run.returncode in (1, 2)
    assert "Traceback" not in told
    assert "top" not in told
    assert "secret" not in told


async def test_other_tools_can_connect_with_the_same_addresses(told):
    text = (
        f"host=127.0.0.1,{told['host']} port=1,{told['port']} user={told['user']}"
        f" password={told['password']} dbname=postgres channel_binding=require"
    )
    connection = await asyncpg.connect(**connection_arguments(text))
    assert await connection.fetchval("SELECT current_database()") == "postgres"
    await connection.close()
