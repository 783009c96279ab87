"""Invalid settings get an error that names the setting, without a traceback."""

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest
import structlog

from db.session.database import Database
from service.cli.options import read_settings
from service.http.limits.refusals import ADDRESSES_MAX, Refusals
from service.ops import bootstrap
from service.settings import Settings
from tests.conftest import Service, running_service
from tests.preloaded import run_command
from tests.server import running_server

KEY = "hf_a-key-that-an-operator-has-chosen-0"
OTHER_KEY = "hf_another-key-that-an-operator-chose-"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with only these settings; return its result."""
    inherited = {name: value for name, value in os.environ.items() if "HOLDFAST" not in name}
    return run_command(*arguments, environment={**inherited, **environment})


@pytest.fixture(scope="module")
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


ISSUER = ["--jwt-issuer", "https://i", "--jwt-audience", "a", "--jwt-jwks"]

WRONG = {
    "redis without its address": (["--strategy", "redis"], "redis-url"),
    "redis with an invalid address": (["--strategy", "redis", "--redis-url", "nonsense"], "redis://"),
    "redis with an invalid port": (["--strategy", "redis", "--redis-url", "redis://h:x/0"], "redis://"),
    "zookeeper without its hosts": (["--strategy", "zookeeper"], "zookeeper-hosts"),
    "zookeeper with an invalid port": (
        ["--strategy", "zookeeper", "--zookeeper-hosts", "h:x"], "zookeeper-hosts"),
    "a strategy that does not exist": (["--strategy", "hope"], "strategy"),
    "a port out of range": (["--port", "99999"], "HOLDFAST_PORT"),
    "a port that is no number": (["--port", "http"], "HOLDFAST_PORT"),
    "a port that Kubernetes has set": (["--port", "tcp://10.0.0.1:8000"], "HOLDFAST_PORT"),
    "no workers": (["--workers", "0"], "HOLDFAST_WORKERS"),
    "a host that does not exist": (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
    "an address of another machine": (["--host", "192.0.2.1"], "192.0.2.1"),
    "a short admin key": (["--admin-key", "short"], "32"),
    "an admin key with a space": (["--admin-key", "x" * 40 + " y"], "32"),
    "an admin key file that does not exist": (["--admin-key-file", "/nowhere/key"], "/nowhere/key"),
    "two admin keys": (["--admin-key", KEY, "--admin-key-file", "/etc/hostname"], "admin-key-file"),
    "an issuer of tokens alone": (["--jwt-issuer", "https://i"], "jwt-audience and jwt-jwks"),
    "an issuer of tokens without its keys": (
        ["--jwt-issuer", "https://i", "--jwt-audience", "a"], "jwt-jwks"),
    "keys of an issuer over http": ([*ISSUER, "http://i/jwks"], "https URL"),
    "keys of an issuer without a host": ([*ISSUER, "https:///jwks"], "https URL"),
    "keys of an issuer at another port": ([*ISSUER, "https://i:x/jwks"], "https URL"),
    "a file of keys that does not exist": ([*ISSUER, "/nowhere/jwks"], "/nowhere/jwks"),
    "a file of keys without any": ([*ISSUER, "/etc/hostname"], "JSON Web Key Set"),
    "tokens without a signature": (["--jwt-algorithms", "RS256,none"], "none"),
    "tokens with an HMAC": (["--jwt-algorithms", "HS256"], "HS256"),
    "an algorithm that does not exist": (["--jwt-algorithms", "RS256, rs512"], "rs512"),
    "a log format that does not exist": (["--log-format", "xml"], "HOLDFAST_LOG_FORMAT"),
    "a directory without binaries": (["--pg-bin", "/nowhere"], "/nowhere"),
    "a data directory that is a file": (["--data-dir", "/etc/hostname"], "/etc/hostname"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "named"), WRONG.values(), ids=WRONG)
def test_an_error_names_the_invalid_setting_in_a_sentence(arguments, named, tmp_path):
    tmp_path.chmod(0o755)
    given = ["serve", "--data-dir", str(tmp_path / "data"), "--port", "0", *arguments]
    ended = run(*given)
    assert ended.returncode in (1, 2)
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if "Error" in line]) <= 1


def test_an_error_names_a_port_that_is_in_use(taken_port, database_url):
    ended = run("serve", "--port", str(taken_port), "--database-url", database_url)
    assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)
    assert f"127.0.0.1:{taken_port}" in ended.stderr


def test_the_port_that_kubernetes_sets_is_ignored_with_a_warning(monkeypatch, capsys):
    monkeypatch.setenv("HOLDFAST_PORT", "tcp://10.96.12.7:8000")
    assert read_settings({}).port == 8000
    assert "10.96.12.7" in capsys.readouterr().err
    monkeypatch.setenv("HOLDFAST_PORT", "9000")
    assert read_settings({}).port == 9000


def test_an_empty_setting_counts_as_unset(monkeypatch):
    """Compose passes an unset variable as an empty value, and a script can pass an empty flag."""
    for name in Settings.model_fields:
        monkeypatch.setenv(f"HOLDFAST_{name.upper()}", "")
    assert read_settings(dict.fromkeys(Settings.model_fields, "")) == Settings()


async def test_a_service_starts_in_the_environment_of_kubernetes_and_compose(database_url):
    """The platform sets some variables, and others are empty."""
    foreign = {
        "HOLDFAST_SERVICE_HOST": "10.96.12.7",
        "HOLDFAST_SERVICE_PORT": "8000",
        "HOLDFAST_PORT_8000_TCP": "tcp://10.96.12.7:8000",
        "HOLDFAST_PORT_8000_TCP_ADDR": "10.96.12.7",
    }
    settings = {name.removeprefix("HOLDFAST_").lower(): foreign[name] for name in foreign}
    with running_server(database_url, redis_url="", log_format="", pg_bin="", **settings):
        pass  # running_server waits until the service is ready


# The first admin key


async def test_a_new_admin_key_revokes_the_previous_one(database_url, database, tmp_path):
    def chosen(key: str | None, directory: str = "data") -> Settings:
        return Settings(database_url=database_url, data_dir=tmp_path / directory, admin_key=key)

    async def valid(key: str) -> bool:
        async with running_service(database_url) as service:
            headers = {"Authorization": f"Bearer {key}"}
            return (await service.client.get("/v1/stock", headers=headers)).status_code == 200

    await bootstrap.ensure_first_key(database, chosen(None))
    made = (tmp_path / "data" / "admin.key").read_text().strip()
    assert await valid(made)
    with structlog.testing.capture_logs() as logged:
        await bootstrap.ensure_first_key(database, chosen(KEY))
    assert [line["event"] for line in logged] == ["admin_key_replaced"]
    assert (await valid(made), await valid(KEY)) == (False, True)
    with structlog.testing.capture_logs() as logged:
        await bootstrap.ensure_first_key(database, chosen(KEY))
        await bootstrap.ensure_first_key(database, chosen(None))
    assert logged == []
    await bootstrap.ensure_first_key(database, chosen(OTHER_KEY, "elsewhere"))
    assert (await valid(KEY), await valid(OTHER_KEY)) == (False, True)


async def test_other_admin_keys_stay_valid(service: Service, tmp_path):
    own = await service.key("ops", "admin")
    settings = Settings(database_url=service.url, data_dir=tmp_path, admin_key=KEY)
    await bootstrap.ensure_first_key(service.database, settings)
    assert (await service.client.get("/v1/stock", headers=own)).status_code == 200


async def test_the_admin_key_can_be_read_from_a_file(database: Database, database_url, tmp_path):
    (tmp_path / "secret").write_text(f"{KEY}\n")
    settings = Settings(
        database_url=database_url, data_dir=tmp_path, admin_key_file=tmp_path / "secret"
    )
    await bootstrap.ensure_first_key(database, settings)
    assert (tmp_path / "admin.key").read_text().strip() == KEY


async def test_a_chosen_key_needs_no_data_directory(database: Database, database_url):
    """In a container, possibly no directory is writable."""
    settings = Settings(database_url=database_url, data_dir="/proc/nowhere", admin_key=KEY)
    with pytest.raises(
        OSError, match="nowhere"
    ):  # a generated key is useless if it can't be written
        await bootstrap.ensure_first_key(database, settings.model_copy(update={"admin_key": None}))
    with structlog.testing.capture_logs() as logged:
        await bootstrap.ensure_first_key(database, settings)
    assert [line["event"] for line in logged] == ["admin_key_not_written"]


# Refused callers


async def test_wrong_keys_are_logged_once_and_counted(service: Service):
    with structlog.testing.capture_logs() as logged:
        for number in range(300):
            headers = {"Authorization": f"Bearer {number}"}
            answer = await service.client.get("/v1/stock", headers=headers)
            assert answer.status_code == 401
        await service.client.get("/", headers={"Accept": "text/html"})
        service.app.worker.refusals.report()
    assert [line.get("times", 1) for line in logged] == [1, 301]
    assert {line["code"] for line in logged} == {"unauthenticated"}
    assert {line["address"] for line in logged} == {"127.0.0.1"}


async def test_refusals_of_too_many_addresses_are_counted_together():
    refusals = Refusals()
    with structlog.testing.capture_logs() as logged:
        for number in range(ADDRESSES_MAX + 500):
            refusals.note(f"2001:db8::{number:x}", "unauthenticated", "id")
        refusals.report()
    assert len(logged) == ADDRESSES_MAX + 1
    assert (logged[-1]["address"], logged[-1]["times"]) == ("others", 500)
