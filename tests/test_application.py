"""An installed `holdfast` imports its own modules, whatever modules the caller has."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from db.strategies import check_strategy
from holdfast import protected_path
from tests.server import await_url

REPOSITORY = Path(__file__).parents[1]
SOURCES = ("service", "db", "holdfast.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The interpreter of a fresh environment into which the wheel was installed."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run([*pip, "wheel", *offline, "--wheel-dir", built, source])
    environment = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", environment])
    python = environment / "bin" / "python"
    (wheel,) = built.iterdir()
    run([*pip, "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel])
    # The dependencies come from the tests' environment. Its editable Holdfast is not visible here,
    # because Python reads no .pth file in a directory that a .pth file has added.
    packages = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    Path(packages.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.fixture
def hostile(tmp_path):
    """A directory with modules named like ours and like a dependency; to import them fails."""
    (tmp_path / "service").mkdir()
    for name in ("db.py", "service/__init__.py", "click.py"):
        (tmp_path / name).write_text(f"raise SystemExit('{name} is not of Holdfast')")
    return tmp_path


def run(command, **options):
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def started_in(directory):
    """Options of a process whose current directory and PYTHONPATH are this directory."""
    environment = {name: value for name, value in os.environ.items() if name != "HOLDFAST_STRATEGY"}
    return {"cwd": directory, "env": {**environment, "PYTHONPATH": f"{directory}{os.pathsep}"}}


def command_of(installed):
    return installed.with_name("holdfast")


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_modules_of_the_caller_do_not_replace_those_of_holdfast(installed, hostile, option):
    assert "oldfast" in run([command_of(installed), option], **started_in(hostile))


@pytest.mark.parametrize("module", ["db", "service", "click"])
def test_without_protection_modules_of_the_caller_would_replace_those_of_holdfast(
    installed, hostile, module
):
    command = [installed, "-c", f"import {module}"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, **started_in(hostile)
    )
    assert "is not of Holdfast" in done.stderr


def test_the_service_starts_beside_modules_of_the_caller(
    installed, hostile, database_url, tmp_path
):
    log = tmp_path / "log"
    options = ["--port", "0", "--workers", "2", "--data-dir", str(tmp_path / "data")]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [command_of(installed), "serve", *options, "--database-url", database_url],
            stdout=output,
            stderr=subprocess.STDOUT,
            **started_in(hostile),
        )
    try:
        await_url(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()


def test_the_processes_of_the_lab_start_beside_modules_of_the_caller(
    installed, hostile, postgres_url
):
    options = ["--seconds", "0.5", "--clients", "2", "--processes", "2"]
    command = [command_of(installed), "lab", *options, "--database-url", postgres_url]
    assert "guard" in run(command, **started_in(hostile))


def test_in_a_clone_the_directory_of_the_clone_comes_first():
    assert protected_path(["/bin", "/lib/python"], "") == [str(REPOSITORY), "/bin", "/lib/python"]


def test_directories_of_pythonpath_come_last(tmp_path):
    theirs = str(tmp_path)
    path = protected_path([theirs, str(REPOSITORY), "/lib/python"], theirs)
    assert path == [str(REPOSITORY), "/lib/python", theirs]


@pytest.mark.parametrize(("strategy", "package"), [("redis", "redis"), ("zookeeper", "kazoo")])
def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch, strategy, package):
    hide(monkeypatch, package, f"db.strategies.{strategy}")
    with pytest.raises(ValueError, match=f"needs the Python package {package}") as caught:
        check_strategy(strategy, "redis://127.0.0.1:6379/0", "127.0.0.1:2181")
    assert f"pip install 'holdfast[{strategy}]'" in str(caught.value)
    assert f"pipx inject holdfast {package}" in str(caught.value)


def test_the_other_strategies_need_no_extra(monkeypatch):
    for package in ("redis", "kazoo"):
        hide(monkeypatch, package)
    for strategy in ("guard", "version", "pessimistic", "serializable", "advisory"):
        check_strategy(strategy, None, None)


def hide(monkeypatch, package, *importers):
    """Make a package look as if it were not installed; its importers will be imported again."""
    for name in list(sys.modules):
        if name.partition(".")[0] == package or name in importers:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("name", SOURCES)
def test_the_build_context_of_the_container_has_every_installed_file(name):
    assert f"!{name}" in (REPOSITORY / ".dockerignore").read_text().splitlines()
