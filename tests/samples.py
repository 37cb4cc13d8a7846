"""Payloads that Cloudflare published in its documentation and API reference, byte for byte."""

from pathlib import Path

V1_EVENTS = (Path(__file__).parent / "data" / "v1-events.ndjson").read_bytes().splitlines()
V2_PAGE = (Path(__file__).parent / "data" / "v2-page.json").read_bytes()
V2_PAGE_WITHOUT_ID = (Path(__file__).parent / "data" / "v2-page-without-id.json").read_bytes()
