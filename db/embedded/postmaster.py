"""PostgreSQL's programs as child processes: their user, their time limits and their records.

This module works on Linux only, because it uses prctl(2) and /proc.
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

# initdb takes the longest: a second on a laptop, half a minute on an overloaded disk.
PROGRAM_SECONDS = 120.0
# A fast shutdown writes out the dirty part of shared_buffers, 1 GB at most.
FAST_STOP_SECONDS = 30.0
# An immediate shutdown writes nothing; after 5 s the postmaster kills the remaining processes.
IMMEDIATE_STOP_SECONDS = 10.0
# Short compared with a start (100 ms), long compared with one scan of /proc.
POLL_SECONDS = 0.01
# postmaster.pid counts seconds and /proc counts ticks, and they are not read at the same moment.
START_TIME_SLACK_SECONDS = 5.0

# With this library a program reads another file instead of /etc/passwd: https://cwrap.org
NSS_WRAPPER = "libnss_wrapper.so"
NAMELESS = "could not look up effective user ID"  # the error of a program without that library

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# Loaded here because nothing may be loaded between fork and exec.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


class EmbeddedError(RuntimeError):
    """The private PostgreSQL can't do its work; the message has the reason and the remedy."""


@dataclass(frozen=True)
class Account:
    """The user that runs PostgreSQL's programs; without ids it is the user of this process."""

    uid: int | None = None
    gid: int | None = None

    @property
    def effective_uid(self) -> int:
        """The id of that user."""
        return os.geteuid() if self.uid is None else self.uid

    def own(self, path: Path) -> None:
        """Make this account the owner of `path`, which this process has created."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def __str__(self) -> str:
        return f"uid {self.effective_uid}"


def choose_account(cluster: Path) -> Account:
    """Return the account that owns or will own `cluster`, which can't be root.

    PostgreSQL refuses to run as root, so root switches to another user. An existing cluster keeps
    its owner even if a better user has been created since.
    """
    owner = cluster.stat() if cluster.exists() else None
    if os.geteuid() != 0:
        if owner and owner.st_uid != os.geteuid():
            raise EmbeddedError(
                f"{cluster} belongs to uid {owner.st_uid} and this process to uid"
                f" {os.geteuid()}: start as that user or as root, or choose another --data-dir"
            )
        return Account()
    if owner:
        return Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "PostgreSQL can't run as root, and there is no user 'postgres' or 'nobody' to switch to:"
        " start the service as another user"
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

    The program gets the cluster as an open directory, because the path may lead through a parent
    that only root may enter. /proc/self/fd/N opens the directory without that path, and every
    backend inherits it. It reads the open file `names` instead of /etc/passwd. Raises
    EmbeddedError if the program can't be started.
    """
    # The kernel sends PDEATHSIG when the *thread* that forked ends, and only the main thread lives
    # as long as the process. It is also the only thread that may safely run code after a fork.
    if threading.current_thread() is not threading.main_thread():
        raise EmbeddedError("PostgreSQL can only be started from the main thread")
    directory = () if cluster is None else (os.open(cluster, os.O_RDONLY | os.O_DIRECTORY),)
    try:
        return subprocess.Popen(  # noqa: S603 - no shell, and the arguments are our own
            command,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",  # any account may enter it, unlike our own directory
            env={**_build_environment(*directory), **_build_names(names)},
            pass_fds=directory if names is None else (*directory, names),
            user=account.uid,
            group=account.gid,
            extra_groups=None if account.uid is None else [],
            start_new_session=True,  # Ctrl-C must not reach it: we drain before we stop PostgreSQL
            preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509 - main thread, see above
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(
            f"{command[0]} can't be started as {account}: {error}. If the service may not switch "
            "to this user, start it as an ordinary user"
        ) from error
    finally:
        for handle in directory:
            os.close(handle)


def _die_with(parent: int) -> None:
    # Runs in the child after the change of user, because that change clears PDEATHSIG. SIGINT is a
    # fast shutdown: PostgreSQL ends its backends and writes a checkpoint.
    if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # the parent died before prctl, so no signal will come
        os._exit(1)


def _build_environment(cluster: int | None = None) -> dict[str, str]:
    # Nothing else is passed on: variables such as PGPORT would change PostgreSQL's behaviour, and
    # our secrets must not reach the process of another user.
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    data = {} if cluster is None else {"PGDATA": f"/proc/self/fd/{cluster}"}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C", "TZ": "UTC", **data}


def _build_names(names: int | None) -> dict[str, str]:
    if names is None:
        return {}
    file = f"/proc/self/fd/{names}"
    # The library needs both variables; no program finds a group in our file.
    files = {"NSS_WRAPPER_PASSWD": file, "NSS_WRAPPER_GROUP": file}
    return {"LD_PRELOAD": NSS_WRAPPER, **files}


def run(
    command: Sequence[str | Path], account: Account, cluster: Path | None = None, typed: str = ""
) -> str:
    """Run a program to its end with `typed` as its input and return its output.

    Raises EmbeddedError with the end of the output if it fails or takes more than PROGRAM_SECONDS.
    """
    with _hold_in_memory(typed) as stdin, _name(account) as names:
        child = launch(command, account, cluster, stdin=stdin, output=subprocess.PIPE, names=names)
    with child:
        try:
            printed = child.communicate(timeout=PROGRAM_SECONDS)[0].decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            raise EmbeddedError(
                f"{command[0]} did not end within {PROGRAM_SECONDS:.0f} s: look at the load of the"
                " machine and its disk, and start again"
            ) from error
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
    """Yield a file that gives the account a name, or None if the account has a name.

    initdb and single-user mode require a name. Containers may run under user ids without a name;
    on OpenShift they always do.
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
    # Not a pipe, because a program of another account may open /dev/stdin a second time.
    handle = os.memfd_create("stdin")
    try:
        os.pwrite(handle, text.encode(), 0)
        yield handle
    finally:
        os.close(handle)


def may_execute(account: Account, path: Path) -> bool:
    """True when `account` can reach and execute a program, or reach and enter a directory."""
    with launch(["/bin/sh", "-c", 'test -x "$0"', path], account) as child:
        return child.wait(PROGRAM_SECONDS) == 0


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for `condition` for at most `seconds`; True when it was fulfilled."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


@dataclass(frozen=True)
class Record:
    """The entries that a postmaster has written into `postmaster.pid`."""

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
        """True while it runs."""
        return self._process.poll() is None

    def is_ready(self) -> bool:
        """True when it has recorded that it accepts connections."""
        record = read_record(self._cluster)
        return record is not None and record.pid == self._process.pid and record.status == "ready"

    def stop(self) -> None:
        """Stop it, with the mildest signal first; on return it has ended."""
        with self._process:
            for number, seconds in (
                (signal.SIGINT, FAST_STOP_SECONDS),
                (signal.SIGQUIT, IMMEDIATE_STOP_SECONDS),
            ):
                self._process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(seconds)
                    return
            # It is frozen. Every committed change is in the WAL, so this only costs a recovery.
            self._process.kill()


def name_cluster(cluster: Path) -> str:
    """Return the `cluster_name` that identifies every process of this cluster in /proc.

    The working directory would identify them too, but root needs CAP_SYS_PTRACE to read that of
    another user's process, and containers drop this capability. All users can read command lines.
    """
    status = cluster.stat()
    return f"holdfast-{status.st_dev:x}-{status.st_ino:x}"


def find_processes(cluster: Path) -> list[int]:
    """Return the PostgreSQL processes on `cluster` that a running or dead service has launched."""
    mark = name_cluster(cluster).encode()
    # A process without a command line is ending. Its cluster is unknown, so it counts.
    return [pid for pid in _list_postgres() if mark in (_read_process(pid, "cmdline") or mark)]


def ask_to_stop(cluster: Path) -> None:
    """Request a fast shutdown of the postmaster that a dead service has left running."""
    record = read_record(cluster)
    if record is not None and record.pid in find_processes(cluster):
        os.kill(record.pid, signal.SIGINT)


def find_stranger(cluster: Path) -> int | None:
    """Return the pid of the live postmaster that `postmaster.pid` names; None if it has ended.

    The pid may belong to another process now, especially after a reboot: the start times decide.
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
        # A zombie uses no files, and a container without an init process keeps it for ever.
        if is_postgres and _read_status(pid)[:1] not in ([], ["Z"], ["X"]):
            yield pid


def _read_status(pid: int) -> list[str]:
    """Return the fields of proc(5)'s `stat` from the state on; none if the process has ended."""
    return _read_process(pid, "stat").rpartition(b")")[2].decode().split()


def _read_process(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # the process has ended in the meantime
        return b""
