# The ingestor. `docker build .` makes the one that runs; the target `with-tests`, which Compose builds, has pytest, too.
# To pin the base for good, write its digest behind the tag (python:…@sha256:…): `docker buildx imagetools inspect IMAGE`.
FROM python:3.13.12-slim-trixie AS base
# Outside of /app: whoever mounts a checkout over /app still has the packages, and the project from their checkout.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/var/lib/cloudflare-audit
WORKDIR /app

FROM base AS packages
RUN python3 -m venv /opt/venv
COPY locks/run.lock locks/
RUN python3 -m pip install --no-cache-dir --require-hashes -r locks/run.lock
COPY pyproject.toml ./
COPY sources sources
COPY pipelines pipelines
COPY simulator simulator
RUN python3 -m pip install --no-cache-dir --no-deps --no-build-isolation -e .

FROM packages AS packages-with-tests
COPY locks/dev.lock locks/
RUN python3 -m pip install --no-cache-dir --require-hashes -r locks/dev.lock

FROM base AS app
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent audit \
    && install -d -o audit -g audit -m 0700 /var/lib/cloudflare-audit
COPY . .
USER 10001
VOLUME /var/lib/cloudflare-audit
ENTRYPOINT ["python3", "pipelines/run.py"]
# The address is the one that docker-compose.yml gives; without METRICS_PORT there is nothing to ask.
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m \
    CMD ["python3", "-c", "import os, urllib.request as u; p = os.environ.get('METRICS_PORT'); p and u.urlopen(f'http://127.0.0.1:{p}/livez', timeout=8)"]

FROM app AS with-tests
# The checkout may not be ours to write into.
ENV PYTEST_ADDOPTS="-p no:cacheprovider"
COPY --from=packages-with-tests /opt/venv /opt/venv

FROM app AS runtime
COPY --from=packages /opt/venv /opt/venv
