"""A service and a PostgreSQL with TLS, as `sslmode` in the database's address asks for it."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest

from db.embedded.postmaster import choose_account
from db.embedded.roles import Addresses, Role
from db.embedded.server import EmbeddedPostgres
from tests.certificates import Authority, new_key, pem_of
from tests.preloaded import run_command
from tests.server import environment, running_server
from tests.test_embedded import DEBIAN_15

pytestmark = pytest.mark.skipif(
    not DEBIAN_15.exists(), reason=f"no PostgreSQL 15 in {DEBIAN_15}; that of the wheel has no TLS"
)
SESSIONS = """
    SELECT ssl, version, count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
    WHERE usename = $1 GROUP BY 1, 2
"""


@dataclass(frozen=True)
class TlsPostgres:
    """A PostgreSQL whose certificate is for one host name."""

    addresses: Addresses
    root: Path
    """The certificate of its authority."""
    stranger: Path
    """The certificate of an authority that has signed nothing here."""

    def settings(self, parameters: str) -> dict[str, str]:
        """The addresses of the service's database, with these parameters."""
        return {
            "database_url": f"{self.addresses.serving}?{parameters}",
            "migrate_database_url": f"{self.addresses.migrating}?{parameters}",
        }


@pytest.fixture(scope="module", params=["127.0.0.1", "db.example"])
def postgres(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsPostgres]:
    """Two servers: the name in one certificate is that of its address, in the other it is not."""
    directory = tmp_path_factory.mktemp("postgres")
    authority, key = Authority(), new_key()
    files = {
        "server.crt": authority.certificate(key, names=[request.param]),
        "server.key": pem_of(key),
        "root.crt": authority.pem,
        "stranger.crt": Authority().pem,
    }
    for name, content in files.items():
        file = directory / name
        file.write_bytes(content)
        file.chmod(0o600)
        choose_account(directory / "data" / "postgresql").own(file)
    for parent in (directory, *directory.parents):
        if parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)  # when we are root, PostgreSQL is not
    settings = {
        "ssl": "on",
        "ssl_cert_file": str(directory / "server.crt"),
        "ssl_key_file": str(directory / "server.key"),
        "fsync": "off",
    }
    with EmbeddedPostgres(directory / "data", DEBIAN_15, settings) as server:
        yield TlsPostgres(server.addresses, directory / "root.crt", directory / "stranger.crt")


async def sessions(postgres: TlsPostgres) -> dict[tuple[bool, str], int]:
    """The number of the service's sessions with and without TLS."""
    connection = await asyncpg.connect(postgres.addresses.superuser, ssl="disable")
    try:
        found = await connection.fetch(SESSIONS, str(Role.SERVING))
    finally:
        await connection.close()
    return {(row["ssl"], row["version"]): row["count"] for row in found}


async def tried(postgres: TlsPostgres, tmp_path: Path, parameters: str, **more: str) -> str:
    """The sentence with which a start is refused."""
    given = {"data_dir": tmp_path / "data", **postgres.settings(parameters)}
    run = await asyncio.to_thread(run_command, "serve", environment={**environment(given), **more})
    assert run.returncode == 1
    assert "Traceback" not in run.stdout + run.stderr
    return run.stderr


@pytest.mark.parametrize("postgres", ["127.0.0.1"], indirect=True)
@pytest.mark.parametrize("root", ["file", "system"])
async def test_every_session_of_a_service_is_encrypted_and_verified(postgres, monkeypatch, root):
    parameters = f"sslmode=verify-full&sslrootcert={postgres.root}"
    if root == "system":
        monkeypatch.setenv("SSL_CERT_FILE", str(postgres.root))
        parameters = "sslmode=verify-full&sslrootcert=system"
    with running_server(**postgres.settings(parameters)) as server:
        async with httpx.AsyncClient(
            base_url=server.url, headers=server.headers, verify=False
        ) as client:
            body = {"available": 5}
            answer = await client.put(
                f"/v1/stock/{root}/main", json=body, headers={"If-None-Match": "*"}
            )
            assert answer.status_code == 201
        found = await sessions(postgres)
        assert {*found} == {(True, "TLSv1.3")}


@pytest.mark.parametrize("postgres", ["127.0.0.1"], indirect=True)
@pytest.mark.parametrize("mode", ["verify-full", "verify-ca"])
async def test_a_server_of_another_authority_is_refused(postgres, tmp_path, mode):
    parameters = f"sslmode={mode}&sslrootcert={postgres.stranger}"
    assert "certificate verify failed" in await tried(postgres, tmp_path, parameters)


@pytest.mark.parametrize("postgres", ["127.0.0.1"], indirect=True)
async def test_an_authority_that_the_system_does_not_know_is_refused(postgres, tmp_path):
    told = await tried(postgres, tmp_path, "sslrootcert=system")
    assert "certificate verify failed" in told


@pytest.mark.parametrize("postgres", ["db.example"], indirect=True)
async def test_a_server_with_a_certificate_of_another_name_is_refused_by_verify_full_only(
    postgres, tmp_path
):
    told = await tried(postgres, tmp_path, f"sslmode=verify-full&sslrootcert={postgres.root}")
    assert "certificate is not valid for" in told
    parameters = f"sslmode=verify-ca&sslrootcert={postgres.root}"
    with running_server(**postgres.settings(parameters)):
        assert {*await sessions(postgres)} == {(True, "TLSv1.3")}
