"""A user id without a name, as OpenShift gives to every container, and a read-only root."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from db.embedded import postmaster
from db.embedded.installation import Installation, find_binaries
from db.embedded.postmaster import Account, EmbeddedError
from tests.brokers import missing
from tests.server import environment, running_server

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

UID = 123456
# The capability lets this user read a Python that is installed in root's home.
AS_NAMELESS = (
    "setpriv", f"--reuid={UID}", "--regid=0", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip
REPOSITORY = Path(__file__).parents[1]
WITH_READ_ONLY_ROOT = """
    mount --rbind / "$1"
    mount -o remount,bind,ro "$1"
    mount --bind "$0" "$1$0"
    exec chroot "$@"
"""
"""The arguments: a directory that stays writable, a directory for the new root, the command."""
# The first run loads every module as root, because the other user can't reach the files.
TWICE = f"""
import os, sys
from service.cli import main

def run():
    try:
        main()
    except SystemExit as end:
        return end.code

if code := run():
    sys.exit(f"as root: {{code}}")
os.setgroups([])
os.setresgid(0, 0, 0)
os.setresuid({UID}, {UID}, {UID})
sys.exit(run())
"""


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user may enter; root's group may write to `data` in it."""
    path = Path(tempfile.mkdtemp(prefix="holdfast-test-"))
    path.chmod(0o755)
    data = path / "data"
    data.mkdir()
    shutil.chown(data, "root", 0)
    data.chmod(0o770)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def wrapper() -> None:
    """Skip the test (fail it in CI) without the library that gives a name to the user id."""
    loaded = subprocess.run(
        ["/bin/true"],
        env={"LD_PRELOAD": postmaster.NSS_WRAPPER},
        capture_output=True,
        check=True,
    )
    if loaded.stderr:
        missing(f"{postmaster.NSS_WRAPPER} is not installed")


def test_the_private_postgresql_starts_for_a_user_without_a_name_and_starts_again(
    open_dir, wrapper
):
    data = open_dir / "data"
    for status in (201, 200):
        with running_server(None, before=AS_NAMELESS, data_dir=data) as server:
            body = {"available": 5}
            with httpx.Client(base_url=server.url, headers=server.headers) as http:
                if status == 201:
                    http.put("/v1/stock/A/main", json=body, headers={"If-None-Match": "*"})
                order = {"seq": "1", "lines": [{"sku": "A", "quantity": 1}]}
                assert http.post("/v1/reservations", json=order).status_code == status
    assert {path.stat().st_uid for path in data.iterdir()} == {UID}


def test_without_the_library_the_error_names_the_package_to_install(open_dir, monkeypatch):
    monkeypatch.setattr(postmaster, "NSS_WRAPPER", "libnowhere.so")
    account = Account(UID, 0)
    binaries = find_binaries(None, open_dir, account)
    with pytest.raises(EmbeddedError, match=r"install the library libnowhere\.so") as refusal:
        Installation(binaries, account).open_cluster(open_dir / "postgresql")
    assert f"uid {UID}" in str(refusal.value)
    assert "HOLDFAST_DATABASE_URL" in str(refusal.value)


@pytest.mark.parametrize("home", [None, "/nonexistent", "closed", "/dev/null"])
def test_every_command_works_with_another_server_and_any_home_directory(
    open_dir, database_url, home
):
    (open_dir / "closed").mkdir(mode=0o700)
    variables = environment({"database_url": database_url, "data_dir": open_dir / "data"})
    variables.pop("HOME", None)
    if home is not None:
        variables["HOME"] = str(open_dir / home)  # an absolute path replaces the first part
    for command in (
        ("db", "upgrade"),
        ("key", "create", "--source", "shop", "--scope", "read"),
        ("key", "list"),
        ("audit",),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", TWICE, *command],
            env=variables,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr.count("holdfast:")) == (0, 0), ended.stderr


def test_the_service_runs_from_a_read_only_root_with_another_server(open_dir, database_url):
    root = open_dir / "root"
    root.mkdir()
    before = ["unshare", "--mount", "sh", "-ec", WITH_READ_ONLY_ROOT, open_dir / "data", root]
    if subprocess.run([*before, "/bin/true"], check=False, capture_output=True).returncode != 0:
        missing("root may not mount anything here")
    before += [*AS_NAMELESS, "env", f"PYTHONPATH={REPOSITORY}"]
    with (
        running_server(database_url, before=before, data_dir=open_dir / "data") as server,
        httpx.Client(base_url=server.url, headers=server.headers) as http,
    ):
        assert http.get("/health/ready").status_code == 200
        assert "holdfast_requests_total" in http.get("/metrics").text
        assert http.get("/v1/stock").status_code == 200
