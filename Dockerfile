# docker build --tag task-queue-engine .
# docker run --init --publish 127.0.0.1:8080:8080 --volume tqe-data:/data --env TQE_API_KEYS=... \
#     task-queue-engine

# The only image that is fetched, pinned by the digest that Docker's official images record for the
# tag. Dependabot reads this line, which is why no build argument is in it, and moves both.
FROM python:3.13-slim-bookworm@sha256:67a1e1f215ccda113cfc024e8639049257e88f273898f595b61476d128d387e8 AS base


FROM base AS build
WORKDIR /src
# Of exactly these files: requirements/README.md says how the hashes are made.
COPY requirements/build.txt requirements/image.txt requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    python3 -m venv /build \
    && /build/bin/python -m pip install --cache-dir /var/cache/pip --require-hashes --no-deps \
        --only-binary :all: --requirement requirements/build.txt \
    && python3 -m venv --without-pip /opt/tqe \
    && /build/bin/python -m pip --python /opt/tqe/bin/python install --cache-dir /var/cache/pip \
        --require-hashes --no-deps --only-binary :all: --no-compile \
        --requirement requirements/image.txt
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY scripts/prune_image.py scripts/
# The last line is the test that what the engine imports is still there.
RUN /build/bin/python -m pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/python -m pip --python /opt/tqe/bin/python install --no-deps --no-index \
        --no-compile /wheels/*.whl \
    && python3 scripts/prune_image.py /opt/tqe \
    && /opt/tqe/bin/tqe --version


FROM base
LABEL org.opencontainers.image.title="Task Queue Engine" \
      org.opencontainers.image.licenses="MIT"

# A fixed number, so that owners of mounted files and `runAsNonRoot` can be stated. No program in the
# container needs an installer, which would only be of use to an intruder.
RUN groupadd --system --gid 10001 tqe \
    && useradd --system --uid 10001 --gid 10001 --home-dir /data --shell /usr/sbin/nologin tqe \
    && install --directory --owner=10001 --group=10001 --mode=0750 /data \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* \
        /usr/local/lib/python3*/ensurepip

COPY --from=build /opt/tqe /opt/tqe
COPY --chmod=0755 scripts/healthcheck.py /usr/local/bin/healthcheck

# Every address of the container is public to its network, so the server asks for TQE_API_KEYS or
# TQE_KEYS_FILE (a file that is mounted, and that user 10001 can read), and ends with a clear line and
# status 2 where there is neither. The program is compiled already, and
# cannot write into its own folders.
ENV PATH=/opt/tqe/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TQE_HOST=0.0.0.0 \
    PORT=8080 \
    TQE_DATABASE=/data/tasks.db

# What tasks write goes beside the database: relative paths start here.
WORKDIR /data
VOLUME /data
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM

# One that runs `worker` is asked at TQE_WORKER_PORT; without that it serves no HTTP, and is run with
# --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["healthcheck"]

# As process 1 it puts an init in front of itself, which reaps orphans: there need be no other.
ENTRYPOINT ["tqe"]
CMD ["serve"]
