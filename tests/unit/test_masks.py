"""Tests that no secret reaches a log line, an error or a `repr`, in whatever form a program writes it."""

import json
import logging
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from shared.errors import HIDDEN, ConfigurationError
from shared.logs import JsonFormatter, PlainFormatter, remember_secrets
from shared.settings import Settings

SECRETS = (
    'quote"in-it-1234',
    "back\\slash-1234",
    "tab\tand\nline-1234",
    "accent-é-1234",
    "p@ss/w%rd+1234 x",
    "apostrophe'-1234",
    "plain-secret-1234",
)
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "repr": repr,
    "repr of a list": lambda secret: repr([secret]),
    "repr of bytes": lambda secret: repr(secret.encode()),
    "JSON": json.dumps,
    "JSON without ASCII": lambda secret: json.dumps(secret, ensure_ascii=False),
    "JSON in JSON": lambda secret: json.dumps(json.dumps({"key": secret})),
    "percent": lambda secret: quote(secret, safe=""),
    "percent, small letters": lambda secret: quote(secret, safe="").replace("%2F", "%2f").replace("%5C", "%5c"),
    "percent, with slashes": quote,
    "form": quote_plus,
}


def lines(formatter: logging.Formatter, written: str) -> str:
    """The log lines after the text was logged as a message, as an argument and as a field."""
    record = logging.LogRecord("a", logging.INFO, "", 1, f"asked {written}", (), None)
    argument = logging.LogRecord("a", logging.INFO, "", 1, "asked %s", ([written],), None)
    field = logging.LogRecord("a", logging.INFO, "", 1, "asked", (), None)
    field.fields = {"url": written, "nested": {"list": [written, {written: (written,)}], "other": ValueError(written)}}
    return "\n".join(formatter.format(each) for each in (record, argument, field))


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_hidden_in_every_form(secret: str, form: str) -> None:
    written = FORMS[form](secret)
    formatted = lines(JsonFormatter([secret]), written)
    found = [formatted, *(json.dumps(json.loads(line), ensure_ascii=False) for line in formatted.splitlines())]
    assert HIDDEN in formatted
    for text in found:
        assert "1234" not in text, text


def test_the_fields_of_a_log_line_keep_their_types() -> None:
    record = logging.LogRecord("a", logging.INFO, "", 1, "done", (), None)
    record.fields = {"status": 200, "took": 1.5, "ok": True, "none": None, "rows": [1, 2]}
    line = json.loads(JsonFormatter(["secret-1234"]).format(record))
    assert {name: line[name] for name in record.fields} == record.fields


@pytest.mark.parametrize(
    "url",
    [
        "http://user:pass1234@host/v1",
        "https://token1234@host",
        "postgresql://app:p%4012341234@host:5432/db?sslmode=require",
        "redis://:pass1234@host/0",
    ],
)
def test_the_user_and_password_of_every_url_are_hidden(url: str) -> None:
    assert "1234" not in lines(JsonFormatter(), url)
    assert "1234" not in lines(PlainFormatter(), url)
    message = ConfigurationError(f"cannot reach {url}; check it").message
    assert "1234" not in message
    assert f"://{HIDDEN}@host" in message


def test_a_url_without_a_user_stays() -> None:
    kept = 'see http://host/v1?to=me@example.org and "https://host", then write to me@example.org'
    assert ConfigurationError(kept).message == kept


def test_the_settings_show_no_user_of_a_url() -> None:
    settings = Settings(
        openai_base_url="http://user:basicpass1234@host/v1",
        ollama_url="http://key1234@host:11434",
        supabase_url="https://user:basicpass1234@project.supabase.co",
        supabase_service_role_key="service-1234-service",
    )
    shown = f"{settings!r} {settings} {settings.model_dump_json()} {settings.model_dump()}"
    assert "1234" not in shown.replace("11434", "")
    assert settings.openai_base_url == "http://user:basicpass1234@host/v1", "the provider gets it"
    assert {"basicpass1234", "key1234"} <= set(settings.secrets())


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("postgresql://me:p%40ss%2F1234@host/db", "p@ss/1234"),
        ("postgresql://me@host/db?password=p%40ss1234", "p@ss1234"),
        ("postgresql://host/db?user=me&sslpassword=key1234", "key1234"),
    ],
)
def test_a_password_in_a_url_is_hidden_as_written_and_decoded(url: str, password: str) -> None:
    secrets = Settings(database_url=url).secrets()
    assert password in secrets
    for written in (password, quote(password, safe="")):
        assert "1234" not in lines(JsonFormatter(secrets), f"password {written}")


def test_a_warning_on_the_terminal_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.logs._known", set())
    monkeypatch.setattr("shared.logs._mask", None)
    remember_secrets(['quote"1234'])
    assert lines(PlainFormatter(), 'quote"1234').splitlines()[0] == f"INFO asked {HIDDEN}"
