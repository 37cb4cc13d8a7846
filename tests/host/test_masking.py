"""No form of a secret leaves the process, and a weak one does not take the words with it."""

import html
import json
import shlex
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from pipelines.host import masking
from pipelines.host.masking import OWN_WORDS, learn, learn_environment, learn_files, learn_shown, mask_error, masked
from sources.cloudflare_audit_logs.errors import AuditLogsError

ODD = "p@ss word/1+2 'q' \"r\" \\ü&%"
PLAIN = "canary-0123456789abcdefghij-XYZ"

FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "of a URL": lambda secret: quote(secret, safe=""),
    "of a URL's path": quote,
    "of a form": quote_plus,
    "of a URL, small": lambda secret: quote(secret, safe="").replace("%2F", "%2f").replace("%40", "%40"),
    "of JSON": lambda secret: json.dumps(secret)[1:-1],
    "of JSON in UTF-8": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "of JSON in JSON": lambda secret: json.dumps({"error": f"password={secret}"}),
    "of Python": repr,
    "of Python's bytes": lambda secret: repr(secret.encode()),
    "of HTML": html.escape,
    "of libpq": lambda secret: "password='" + secret.replace("\\", "\\\\").replace("'", "\\'") + "'",
    "of SQL": lambda secret: "PASSWORD '" + secret.replace("'", "''") + "'",
    "of Authorization": lambda secret: "Basic " + b64encode(f"user:{secret}".encode()).decode(),
    "of a longer Authorization": lambda secret: "Basic " + b64encode(f"ab:{secret}xyz".encode()).decode(),
    "of SQLAlchemy": lambda secret: f"postgresql://u:{quote(secret, safe=' +')}@host",
    "of a shell": shlex.quote,
    "of a log line": lambda secret: json.dumps(secret)[1:-1].replace('"', "'"),
    "in one line": lambda secret: " ".join(f"a  b {secret}".split()),
}


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_known", {})
    monkeypatch.setattr(masking, "_finders", ())
    monkeypatch.setattr(masking, "_shown", frozenset())


@pytest.mark.parametrize("secret", [ODD, PLAIN, "two  spaces\nand a line"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_secret_is_hidden(secret: str, form: str) -> None:
    """With its name in its place."""
    learn("PG_PASSWORD", secret)
    text = FORMS[form](secret)

    shown = masked(f"connection to {text} failed")

    assert "[PG_PASSWORD]" in shown
    assert secret not in shown
    assert text not in shown


@pytest.mark.parametrize("part", [PLAIN[:20], PLAIN[-16:], PLAIN[7:24], PLAIN[:12]])
def test_a_secret_that_was_cut_is_hidden(part: str) -> None:
    """An excerpt of a page ends in the middle of it."""
    learn("CLOUDFLARE_API_TOKEN", PLAIN)

    assert masked(f"HTTP 502: Bearer {part} (try again)") == "HTTP 502: Bearer [CLOUDFLARE_API_TOKEN] (try again)"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:18991/beat",
        "https://hooks.example.com/services/T0/B0/Xy1",
        "https://127.0.0.1:18991?key=abcdef",
    ],
)
def test_the_address_of_a_secret_url_is_shown_with_other_urls(url: str) -> None:
    """Its scheme and host are no secret: another port of this host, another path, stay as they are."""
    learn("HEARTBEAT_URL", url)
    text = f"http://127.0.0.1:18992, http://127.0.0.1:18990/client/v4, 127.0.0.1:18991, {url[:20]}, hooks.example.com"

    assert masked(text) == text
    assert masked(f"GET {url} failed") == "GET [HEARTBEAT_URL] failed"


@pytest.mark.parametrize(
    ("url", "quoted"),
    [
        ("https://hc.example.com/ping/5f0c-4711-8d21", "host='hc.example.com': with url: /ping/5f0c-4711-8d21"),
        ("https://hc.example.com/ping/5f0c-4711-8d21", "https://hc.example.com/ping/5f0c-4711 (cut)"),
        ("https://hc.example.com/?api_key=4711", "https://HC.example.com/?api_key=4711"),
        ("https://someone-4711:5f0c@hc.example.com/ping", "login as someone-4711:5f0c"),
    ],
)
def test_what_a_secret_url_gives_away_is_hidden_by_itself(url: str, quoted: str) -> None:
    """Path and query, as an error of the connection quotes them, and the user; also where they were cut."""
    learn("HEARTBEAT_URL", url)

    shown = masked(quoted)

    assert "[HEARTBEAT_URL]" in shown
    assert "5f0c" not in shown
    assert "4711" not in shown


@pytest.mark.parametrize("secret", ["abc", "a", "warehouse", "postgres", "12345678", "audit_writer"])
def test_a_weak_secret_leaves_the_words_alone(secret: str) -> None:
    """Three characters, a word of ours, a number, the user: hidden where a password stands, and only there."""
    learn_environment({"PG_PASSWORD": secret, "PG_USER": "audit_writer", "PG_DATABASE": "postgres"})
    text = f"{secret}, a {secret} {json.dumps({secret: 1})}, {secret}def: login as {secret}"

    assert masked(text) == text
    for place in ("password={}", "password='{}'", "postgresql://someone:{}@host/db", '"password": "{}"', "Bearer {}"):
        assert masked(place.format(secret)) == place.format("[PG_PASSWORD]")
        assert masked(place.format(secret + "x")) == place.format(secret + "x")


def test_a_secret_of_some_characters_is_hidden_where_it_is_a_word() -> None:
    """A short secret is hidden where it is a word, and not within other words."""
    learn("PG_PASSWORD", "s3cr3t")

    assert masked('near "s3cr3t": s3cr3ts, as3cr3t') == 'near "[PG_PASSWORD]": s3cr3ts, as3cr3t'


def test_no_secret_is_no_secret() -> None:
    """An empty password hides nothing."""
    learn_environment({"PG_PASSWORD": ""})

    assert masked("all of this") == "all of this"


def test_the_words_of_the_program_are_its_keys() -> None:
    """`--json` stays JSON, whatever the password."""
    assert {"warehouse", "lake", "error", "status"} <= OWN_WORDS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLOUDFLARE_API_TOKEN", PLAIN),
        ("AWS_SECRET_ACCESS_KEY", PLAIN),
        ("AWS_SESSION_TOKEN", PLAIN),
        ("DESTINATION__FILESYSTEM__CREDENTIALS__AWS_SECRET_ACCESS_KEY", PLAIN),
        ("DESTINATION__POSTGRES__CREDENTIALS", f"postgresql://someone:{PLAIN}@host:5432/db"),
        ("DESTINATION__POSTGRES__CREDENTIALS", json.dumps({"host": "h", "password": PLAIN})),
        ("HTTPS_PROXY", f"http://someone:{PLAIN}@proxy:3128"),
        ("PGPASSWORD", PLAIN),
    ],
)
def test_the_environment_says_what_is_secret(name: str, value: str) -> None:
    """By name, in a URL, in an object; and what is not is shown."""
    learn_environment({name: value, "CLOUDFLARE_API_TOKEN_FILE": "/run/secrets/token", "LANG": "C.UTF-8"})

    assert PLAIN not in masked(f"it is {PLAIN}")
    assert masked("/run/secrets/token C.UTF-8 someone host") == "/run/secrets/token C.UTF-8 someone host"


def test_dlts_own_files_say_what_is_secret(tmp_path: Path) -> None:
    """They win over the settings."""
    (tmp_path / "secrets.toml").write_text(
        f'[destination.postgres.credentials]\nhost = "somewhere"\npassword = "{PLAIN}"\n'
        '[destination.filesystem]\ncredentials = "s3://key:other-canary-4711@host"\n'
    )
    learn_files(tmp_path, tmp_path / "not there")

    shown = masked(f"{PLAIN} other-canary-4711 somewhere")

    assert shown == "[password] [credentials] somewhere"


def test_an_error_that_is_sent_is_hidden_with_its_causes() -> None:
    """Dask's workers send errors, not texts."""
    learn("PG_PASSWORD", PLAIN)
    error = AuditLogsError(f"1 {PLAIN}", detail=f"2 {PLAIN}", hint=f"3 {PLAIN}")
    error.__cause__ = ValueError(f"4 {PLAIN}")

    mask_error(error)

    assert str(error) == "1 [PG_PASSWORD]: 2 [PG_PASSWORD] (3 [PG_PASSWORD])"
    assert (error.args, error.__cause__.args) == (("1 [PG_PASSWORD]",), ("4 [PG_PASSWORD]",))


def test_many_secrets_of_one_kind_and_names_like_them_are_hidden_in_one_go() -> None:
    """Each name has a part of all the others in it: what is put in is not looked at again, or a line would not end."""
    numbers = range(10, 60)
    for number in numbers:
        learn(f"tokens/token-{number:032x}", f"secret-token-{number:032x}")
    text = " ".join(f"secret-token-{number:032x}" for number in numbers)

    shown = masked(text)

    assert shown == " ".join(f"[tokens/token-{number:032x}]" for number in numbers)


def test_an_account_is_shown_though_its_token_has_its_id_in_it() -> None:
    """A part that other settings say is no secret; the whole is."""
    account = "023e105f4ecef8ad9ca31a8372d0c353"
    learn("CLOUDFLARE_API_TOKEN", f"token-{account}")
    learn_shown(account)

    assert masked(f"account={account} Bearer token-{account}") == f"account={account} Bearer [CLOUDFLARE_API_TOKEN]"
