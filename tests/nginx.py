"""Debian's nginx on loopback, in front of services, with gzip and keep-alive connections."""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.brokers import free_port, missing

SECONDS_MAX = 60.0  # to start or stop: only a hang takes longer

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    gzip on;
    gzip_min_length 20;
    gzip_types application/json application/problem+json;
    upstream holdfast {{
        {servers}
        keepalive 16;
        keepalive_timeout 1s;  # shorter than that of the services, so that nginx closes first
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://holdfast;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header Accept-Encoding "";
            proxy_next_upstream error timeout;
        }}
    }}
}}
"""


@contextmanager
def running_nginx(urls: Sequence[str]) -> Iterator[str]:
    """The address of an nginx in front of these services. Skips the test if nginx is missing."""
    if shutil.which("nginx") is None:
        missing("nginx is not installed (make services)")
    with tempfile.TemporaryDirectory(prefix="holdfast-nginx-") as name:
        directory, port = Path(name), free_port()
        servers = " ".join(f"server {url.removeprefix('http://')} max_fails=0;" for url in urls)
        configuration = directory / "nginx.conf"
        configuration.write_text(
            CONFIGURATION.format(directory=directory, servers=servers, port=port)
        )
        process = subprocess.Popen(
            ["nginx", "-p", name, "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await_nginx(f"http://127.0.0.1:{port}", process, directory / "error.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(SECONDS_MAX)


def await_nginx(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + SECONDS_MAX
    while time.monotonic() < give_up_at and process.poll() is None:
        try:
            httpx.get(f"{url}/health/live", timeout=2)
        except httpx.HTTPError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"nginx did not start:\n{log.read_text() if log.exists() else ''}")
