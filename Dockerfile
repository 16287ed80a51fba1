# syntax=docker/dockerfile:1

# docker build --tag task-queue-engine .
# docker run --publish 127.0.0.1:8080:8080 --volume tqe-data:/data --env TQE_API_KEYS=... \
#     task-queue-engine

ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
# Which optional parts go in: extras of pyproject.toml, comma-separated.
ARG EXTRAS=aws,images
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN --mount=type=cache,target=/var/cache/pip \
    pip wheel --cache-dir /var/cache/pip --wheel-dir /wheels ".[${EXTRAS}]"


FROM python:${PYTHON_VERSION}-slim-bookworm
LABEL org.opencontainers.image.title="Task Queue Engine" \
      org.opencontainers.image.licenses="MIT"

# A fixed number, so that owners of mounted files and `runAsNonRoot` can be stated.
RUN groupadd --system --gid 10001 tqe \
    && useradd --system --uid 10001 --gid 10001 --home-dir /data --shell /usr/sbin/nologin tqe \
    && install --directory --owner=10001 --group=10001 --mode=0750 /data

# Nothing is compiled or fetched here: the first stage brought wheels of everything.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index /wheels/*.whl

COPY --chmod=0755 scripts/healthcheck.py /usr/local/bin/healthcheck

# Every address of the container is public to its network, so the server asks for TQE_API_KEYS and
# ends with a clear line and status 2 when there are none.
ENV PYTHONUNBUFFERED=1 \
    TQE_HOST=0.0.0.0 \
    PORT=8080 \
    TQE_DATABASE=/data/tasks.db

# What tasks write goes beside the database: relative paths start here.
WORKDIR /data
VOLUME /data
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM

# A container that runs `worker` serves no HTTP: run it with --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["healthcheck"]

# As process 1 it puts an init in front of itself, which reaps orphans: there need be no other.
ENTRYPOINT ["tqe"]
CMD ["serve"]
