# The service as an image: `make image`. It needs BuildKit, which every engine since 23.0 uses by itself;
# for older ones set DOCKER_BUILDKIT=1. How to pin the base images by digest: docs/deploy.md.

# Tags stand in a FROM, where Dependabot finds them. What an argument replaces is not pulled.
ARG PYTHON_IMAGE=tagged-python
ARG UV_IMAGE=tagged-uv
FROM python:3.13.15-slim-trixie AS tagged-python
FROM ghcr.io/astral-sh/uv:0.13.9 AS tagged-uv

FROM ${UV_IMAGE} AS uv

FROM ${PYTHON_IMAGE} AS build
ENV UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /srv
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv \
    --mount=type=cache,target=/root/.cache/uv \
    --mount=source=requirements.lock,target=/tmp/requirements.lock \
    uv venv --quiet \
    && uv pip sync --quiet --require-hashes --compile-bytecode /tmp/requirements.lock
# The engine, unless it comes from the lock: then there is no packages/, which the pattern allows for. The image
# gets nothing of it that only development and tests import.
COPY requirements.lock package[s] /tmp/packages/
RUN --mount=from=uv,source=/uv,target=/usr/local/bin/uv \
    if [ -d /tmp/packages/lifeguard ]; then \
      uv pip install --quiet --no-deps --compile-bytecode --offline /tmp/packages/lifeguard; fi \
    && rm -r .venv/lib/python3*/site-packages/lifeguard/development .venv/lib/python3*/site-packages/lifeguard/testing
COPY migrations migrations
COPY app app
RUN .venv/bin/python -m compileall -q app migrations

FROM ${PYTHON_IMAGE}
# What installs packages has nothing to do here. The official images come without the byte code of the standard
# library, and as nobody may write it later, each start would compile a third of what it imports.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/site-packages/pip* \
    && python -m compileall -q -x '/(test|tests|idle_test|lib2to3)/' /usr/local/lib/python3*
ENV PATH=/srv/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    APP_ENV=production \
    HOST=0.0.0.0 \
    PORT=8000
WORKDIR /srv
COPY deploy/probe.py probe.py
COPY --from=build /srv/.venv .venv
COPY --from=build /srv/migrations migrations
COPY --from=build /srv/app app
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-I", "-S", "/srv/probe.py", "/healthz"]
ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]

ARG VERSION=unknown
ARG REVISION=unknown
ENV SERVICE_VERSION=${VERSION}
LABEL org.opencontainers.image.title="Lifeguard" \
      org.opencontainers.image.description="A FastAPI and asyncpg service whose connection pool does not fall over" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
