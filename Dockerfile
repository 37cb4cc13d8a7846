# The ingestor. `docker build .` builds the image to run; the target `with-tests`, which Compose builds, also has pytest.
# To pin the base for good, add its digest to the tag (python:…@sha256:…): `docker buildx imagetools inspect IMAGE`.
FROM python:3.13.12-slim-trixie AS base
# Outside /app: with a checkout mounted over /app, the packages are still there, and the project is that checkout's.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/var/lib/cloudflare-audit
WORKDIR /app

FROM base AS packages
RUN python3 -m venv /opt/venv
COPY locks/run.lock locks/
RUN python3 -m pip install --no-cache-dir --require-hashes -r locks/run.lock
COPY pyproject.toml setup.py README.md LICENSE config.example.env ./
COPY cloudflare_audit cloudflare_audit
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
# docker-compose.yml sets the address. Without METRICS_PORT there is nothing to ask, and the check passes.
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m \
    CMD ["python3", "-c", "import os, urllib.request as u; p = os.environ.get('METRICS_PORT'); p and u.urlopen(f'http://127.0.0.1:{p}/livez', timeout=8)"]

FROM app AS with-tests
# This user may have no right to write into a mounted checkout.
ENV PYTEST_ADDOPTS="-p no:cacheprovider"
COPY --from=packages-with-tests /opt/venv /opt/venv

FROM app AS runtime
COPY --from=packages /opt/venv /opt/venv
