"""Writes the dashboards into `deploy/grafana/dashboards`."""

from .files import DASHBOARDS, FOLDER, text_of

if __name__ == "__main__":
    for name, build in DASHBOARDS.items():
        (FOLDER / name).write_text(text_of(build()))
