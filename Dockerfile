# syntax=docker/dockerfile:1

FROM ghcr.io/astral-sh/uv:0.13.8 AS uv

FROM python:3.11-slim-bookworm AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /app
# The embedded engine (555 MB) stays out: in containers the store is a ClickHouse server.
ARG WITHOUT="--no-default-groups --no-install-package chdb --no-install-package chdb-core"
COPY pyproject.toml uv.lock ./
RUN uv sync --locked ${WITHOUT} --no-install-project
COPY README.md ./
COPY schemas schemas
COPY pipeline pipeline
COPY clickhouse clickhouse
COPY agents agents
COPY tally tally
RUN uv sync --locked ${WITHOUT} --no-editable

FROM python:3.11-slim-bookworm
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["tally"]
CMD ["worker"]
