FROM python:3.12-slim
WORKDIR /app
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && useradd --create-home audit && mkdir -p data && chown audit data
USER audit
ENTRYPOINT ["python3", "pipelines/run.py"]
