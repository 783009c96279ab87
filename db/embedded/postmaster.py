"""PostgreSQL's programs as child processes: as whom they run, how long, and what they leave behind.

Linux only: it leans on prctl(2) and /proc.
"""

import ctypes
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

# The longest one is initdb: a second on a laptop, half a minute on a starved CI disk.
PROGRAM_SECONDS = 120.0
# A fast shutdown writes out the dirty part of shared_buffers, 1 GB at most.
FAST_STOP_SECONDS = 30.0
# An immediate shutdown writes nothing; the postmaster itself kills what is left after 5 s.
IMMEDIATE_STOP_SECONDS = 10.0
# Short beside the 100 ms that a start takes, long beside one look through /proc.
POLL_SECONDS = 0.01
# postmaster.pid has whole seconds, /proc has ticks, and the two are taken a moment apart.
START_TIME_SLACK_SECONDS = 5.0

# It stands in for /etc/passwd in a program that is started with it: https://cwrap.org
NSS_WRAPPER = "libnss_wrapper.so"
NAMELESS = "could not look up effective user ID"  # says a program without it

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# Loaded here because nothing may be loaded between fork and exec.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


class EmbeddedError(RuntimeError):
    """The embedded PostgreSQL cannot do what was asked; the message says why and what to do."""


@dataclass(frozen=True)
class Account:
    """The user that PostgreSQL's programs run as; without ids it is the one we are ourselves."""

    uid: int | None = None
    gid: int | None = None

    @property
    def effective_uid(self) -> int:
        """The id of that user."""
        return os.geteuid() if self.uid is None else self.uid

    def own(self, path: Path) -> None:
        """Make `path`, which we have created, this account's."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def __str__(self) -> str:
        return f"uid {self.effective_uid}"


def choose_account(cluster: Path) -> Account:
    """Say who owns or shall own `cluster`: PostgreSQL refuses root, so root drops to another.

    An existing cluster keeps its owner even if a better user has been created since.
    """
    owner = cluster.stat() if cluster.exists() else None
    if os.geteuid() != 0:
        if owner and owner.st_uid != os.geteuid():
            raise EmbeddedError(
                f"{cluster} belongs to uid {owner.st_uid} and we are uid {os.geteuid()}: start as "
                "that user or as root, or choose another --data-dir"
            )
        return Account()
    if owner:
        return Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "there is no user 'postgres' or 'nobody' to drop to: start as another user than root"
    )


def launch(
    command: Sequence[str | Path],
    account: Account,
    cluster: Path | None = None,
    *,
    stdin: int = subprocess.DEVNULL,
    output: int | IO[bytes] = subprocess.DEVNULL,
    names: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program on `cluster` as `account`; the kernel interrupts it when this process ends.

    The cluster is handed over as an open directory, for its path may lead through a parent that
    only root may enter; /proc/self/fd/N reaches it without walking that path, and every backend
    inherits it. `names` is an open file that the program reads for /etc/passwd. Raises
    EmbeddedError if the program cannot be started.
    """
    # The kernel sends PDEATHSIG when the *thread* that forked ends: only the main one is as
    # long-lived as the process. It also is the one that may safely run code after a fork.
    if threading.current_thread() is not threading.main_thread():
        raise EmbeddedError("PostgreSQL can only be started from the main thread")
    directory = () if cluster is None else (os.open(cluster, os.O_RDONLY | os.O_DIRECTORY),)
    try:
        return subprocess.Popen(  # noqa: S603 - no shell, and the arguments are our own
            command,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",  # which any account may enter, unlike our own
            env={**_build_environment(*directory), **_build_names(names)},
            pass_fds=directory if names is None else (*directory, names),
            user=account.uid,
            group=account.gid,
            extra_groups=None if account.uid is None else [],
            start_new_session=True,  # a Ctrl-C is ours alone: we drain, then stop PostgreSQL
            preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509 - main thread, see above
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(
            f"{command[0]} cannot be started as {account}: {error}. If we may not switch to this "
            "user, start the service as an ordinary one"
        ) from error
    finally:
        for handle in directory:
            os.close(handle)


def _die_with(parent: int) -> None:
    # Runs in the child after it has dropped root, because a change of credentials clears PDEATHSIG.
    # SIGINT is a fast shutdown: backends are ended, a checkpoint is written.
    if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it died before prctl, so no signal will come
        os._exit(1)


def _build_environment(cluster: int | None = None) -> dict[str, str]:
    # Nothing else is passed on: PGPORT and friends would change what PostgreSQL does, and our own
    # secrets are not for another user's process.
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    data = {} if cluster is None else {"PGDATA": f"/proc/self/fd/{cluster}"}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "TZ": "UTC", **data}


def _build_names(names: int | None) -> dict[str, str]:
    if names is None:
        return {}
    file = f"/proc/self/fd/{names}"
    # Both are needed to switch it on; there is nothing in ours that any program takes for a group.
    files = {"NSS_WRAPPER_PASSWD": file, "NSS_WRAPPER_GROUP": file}
    return {"LD_PRELOAD": NSS_WRAPPER, **files}


def run(
    command: Sequence[str | Path], account: Account, cluster: Path | None = None, typed: str = ""
) -> str:
    """Run a program to its end with `typed` as its input and return what it printed.

    Raises EmbeddedError with its last words if it fails or takes more than PROGRAM_SECONDS.
    """
    with _hold_in_memory(typed) as stdin, _name(account) as names:
        child = launch(command, account, cluster, stdin=stdin, output=subprocess.PIPE, names=names)
    with child:
        try:
            printed = child.communicate(timeout=PROGRAM_SECONDS)[0].decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            raise EmbeddedError(f"{command[0]} took over {PROGRAM_SECONDS:.0f} s") from error
        finally:
            child.kill()
    if child.returncode != 0 and NAMELESS in printed:
        raise EmbeddedError(
            f"PostgreSQL's {Path(command[0]).name} does not run as {account}, which has no name in "
            f"/etc/passwd: install the library {NSS_WRAPPER} (Debian's package libnss-wrapper), "
            "start as a user that has a name, or name another server with HOLDFAST_DATABASE_URL"
        )
    if child.returncode != 0:
        raise EmbeddedError(f"{command[0]} failed ({child.returncode}):\n{printed[-2000:]}")
    return printed


@contextmanager
def _name(account: Account) -> Iterator[int | None]:
    """Yield a file that gives the account a name, for initdb and single-user mode insist on one.

    Containers are run under ids that nobody has named; OpenShift does so always. None if it has
    one.
    """
    if _has_name(account.effective_uid):
        yield None
        return
    gid = os.getegid() if account.gid is None else account.gid
    with _hold_in_memory(f"holdfast:x:{account.effective_uid}:{gid}::/:/bin/false\n") as names:
        yield names


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


@contextmanager
def _hold_in_memory(text: str) -> Iterator[int]:
    # Not a pipe: a program of another account may open this one anew, as /dev/stdin.
    handle = os.memfd_create("stdin")
    try:
        os.pwrite(handle, text.encode(), 0)
        yield handle
    finally:
        os.close(handle)


def may_execute(account: Account, path: Path) -> bool:
    """Say whether `account` can reach and execute a program, or reach and enter a directory."""
    with launch(["/bin/sh", "-c", 'test -x "$0"', path], account) as child:
        return child.wait(PROGRAM_SECONDS) == 0


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for `condition` for at most `seconds`, and say whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


@dataclass(frozen=True)
class Record:
    """What a postmaster has written of itself into `postmaster.pid`."""

    pid: int
    started_at: int
    status: str


def read_record(cluster: Path) -> Record | None:
    """Return the record in `cluster`, or None if there is none or a crash left it incomplete."""
    with suppress(FileNotFoundError, ValueError, IndexError):
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        # Line 1 is negative for a single-user backend; line 8 comes late.
        return Record(abs(int(lines[0])), int(lines[2]), lines[7].strip() if len(lines) > 7 else "")
    return None


class Postmaster:
    """A running postmaster that this process has started on `cluster`."""

    def __init__(self, process: subprocess.Popen[bytes], cluster: Path) -> None:
        self._process = process
        self._cluster = cluster

    def is_alive(self) -> bool:
        """Say whether it still runs."""
        return self._process.poll() is None

    def is_ready(self) -> bool:
        """Say whether it has said of itself that it accepts connections."""
        record = read_record(self._cluster)
        return record is not None and record.pid == self._process.pid and record.status == "ready"

    def stop(self) -> None:
        """End it, by gentle means first; on return it is gone."""
        with self._process:
            for number, seconds in (
                (signal.SIGINT, FAST_STOP_SECONDS),
                (signal.SIGQUIT, IMMEDIATE_STOP_SECONDS),
            ):
                self._process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(seconds)
                    return
            # It is frozen. What it has acknowledged is in the WAL, so this costs a recovery only.
            self._process.kill()


def name_cluster(cluster: Path) -> str:
    """Return the `cluster_name` by which every process of this cluster can be told in /proc.

    Their working directory would tell as well, but root needs CAP_SYS_PTRACE to see that of
    another user's process, and containers take it away; the command line is open to all.
    """
    status = cluster.stat()
    return f"holdfast-{status.st_dev:x}-{status.st_ino:x}"


def find_processes(cluster: Path) -> list[int]:
    """Return the PostgreSQL processes on `cluster` that a service, living or dead, has launched."""
    mark = name_cluster(cluster).encode()
    # One without a command line is just ending, and until it has, nobody can tell whose it is.
    return [pid for pid in _list_postgres() if mark in (_read_process(pid, "cmdline") or mark)]


def ask_to_stop(cluster: Path) -> None:
    """Ask for a fast shutdown of the postmaster that a process of ours, now dead, has left."""
    record = read_record(cluster)
    if record is not None and record.pid in find_processes(cluster):
        os.kill(record.pid, signal.SIGINT)


def find_stranger(cluster: Path) -> int | None:
    """Return the live postmaster that `postmaster.pid` names, None if it has ended.

    Its pid may be another process by now, above all after a reboot: the time of its start tells.
    """
    record = read_record(cluster)
    if record is None or record.pid not in _list_postgres():
        return None
    status = _read_status(record.pid)
    if not status:
        return None
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    age = uptime - int(status[19]) / os.sysconf("SC_CLK_TCK")
    is_the_same = abs(time.time() - age - record.started_at) <= START_TIME_SLACK_SECONDS
    return record.pid if is_the_same else None


def _list_postgres() -> Iterator[int]:
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        is_postgres = _read_process(pid, "comm").strip() in (b"postgres", b"postmaster")
        # A zombie uses nothing any more, and a container without an init keeps it for ever.
        if is_postgres and _read_status(pid)[:1] not in ([], ["Z"], ["X"]):
            yield pid


def _read_status(pid: int) -> list[str]:
    """Return the fields of proc(5)'s `stat` from the third, the state, on; none if it has ended."""
    return _read_process(pid, "stat").rpartition(b")")[2].decode().split()


def _read_process(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended meanwhile
        return b""
