"""Grafana's dashboards, which `python -m tests.deploy.grafana` writes into `deploy/grafana/dashboards`."""
