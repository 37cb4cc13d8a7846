# What runs. The targets: `runtime` (the last, which `docker build .` and Compose build) has the commands, `dashboard`
# the page as well, `with-tests` the checkout with pytest.
# To pin the base for good, add its digest to the tag (python:…@sha256:…): `docker buildx imagetools inspect IMAGE`.
FROM python:3.13.12-slim-trixie AS base
# Outside /app: with a checkout mounted over /app, the packages are still there, and the project is that checkout's.
# The root is read-only, so nothing could be compiled at a start: all of it is compiled here. The base has its standard
# library uncompiled, which costs each start, and each health check, more than the rest.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/var/lib/cloudflare-audit
RUN python3 -c "import compileall, sysconfig; compileall.compile_dir(sysconfig.get_path('stdlib'), quiet=2)"
WORKDIR /app

FROM base AS packages
RUN python3 -m venv /opt/venv
COPY locks/run.lock locks/
RUN python3 -m pip install --no-cache-dir --require-hashes -r locks/run.lock

FROM packages AS packages-of-dashboard
COPY locks/dashboard.lock locks/
RUN python3 -m pip install --no-cache-dir --require-hashes -r locks/dashboard.lock

FROM packages AS packages-with-tests
COPY locks/dev.lock locks/
RUN python3 -m pip install --no-cache-dir --require-hashes -r locks/dev.lock
COPY . .
RUN python3 -m pip install --no-cache-dir --no-deps --no-build-isolation -e .

# The same project in each: installed, made slim, compiled.
FROM packages AS built
COPY . .
RUN python3 -m pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && python3 deploy/image/slim.py /opt/venv/lib/python3.*/site-packages \
    && rm -rf benchmarks docs locks tests \
    && python3 -m compileall -q .

FROM packages-of-dashboard AS built-dashboard
COPY . .
RUN python3 -m pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && python3 deploy/image/slim.py /opt/venv/lib/python3.*/site-packages \
    && rm -rf benchmarks docs locks tests \
    && python3 -m compileall -q .

FROM base AS app
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent audit \
    && install -d -o audit -g audit -m 0700 /var/lib/cloudflare-audit
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
COPY --from=packages-with-tests /app /app

FROM app AS dashboard
ENTRYPOINT ["python3", "-m", "dashboard"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=1m \
    CMD ["python3", "-c", "import os, urllib.request as u; b = os.environ.get('DASHBOARD_BASE_PATH', '').rstrip('/'); u.urlopen(f\"http://127.0.0.1:{os.environ.get('DASHBOARD_PORT') or 2719}{b}/healthz\", timeout=8)"]
COPY --from=built-dashboard /opt/venv /opt/venv
COPY --from=built-dashboard /app /app

FROM app AS runtime
COPY --from=built /opt/venv /opt/venv
COPY --from=built /app /app
