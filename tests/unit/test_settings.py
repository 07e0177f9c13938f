"""Tests the settings: all problems are reported at once, by name, never with a value."""

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.errors import ConfigurationError
from shared.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name.upper() for name in Settings.model_fields]


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove this machine's variables, and read `.env` of a folder in place of the checkout."""
    for name in list(os.environ):
        if name.upper() in NAMES:
            monkeypatch.delenv(name)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr("shared.settings._PROGRAM", tmp_path)


def test_every_setting_is_optional(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.embedding_provider == "onnx"
    assert settings.tonnetz_data_dir == tmp_path / ".tonnetz"
    assert settings.database_url is None


def test_an_empty_string_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")
    assert load_settings() == Settings()


def test_every_problem_is_in_one_error_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_PROVIDER", "cohere")
    monkeypatch.setenv("EMBEDDING_DIMENSIONS", "many")
    monkeypatch.setenv("SUPABASE_URL", "project.supabase.co")
    monkeypatch.setenv("LOG_LEVEL", "chatty")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    for name in ("EMBEDDING_PROVIDER", "EMBEDDING_DIMENSIONS", "SUPABASE_URL", "LOG_LEVEL"):
        assert f"{name}: " in caught.value.message


def test_each_problem_is_one_line_that_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "EMBEDDING_PROVIDER": "cohere",
        "EMBEDDING_DIMENSIONS": "5000",
        "EMBEDDING_PRICE_PER_MILLION": "cheap",
        "CONSOLE": "maybe",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert sorted(caught.value.message.splitlines()) == [
        "CONSOLE: must be true or false",
        "EMBEDDING_DIMENSIONS: must be at most 4000",
        "EMBEDDING_PRICE_PER_MILLION: must be a number",
        "EMBEDDING_PROVIDER: must be onnx, ollama or openai",
    ]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("EMBEDDING_PROVDER", "did you mean EMBEDDING_PROVIDER?"),
        ("EMBEDING_PROVIDER", "did you mean EMBEDDING_PROVIDER?"),
        ("DATABASE_URI", "did you mean DATABASE_URL?"),
        ("OPENAI_KEY", "did you mean OPENAI_API_KEY?"),
        ("TONNETZ_ZZZ", ".env.example lists every setting"),
    ],
)
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_misspelt_variable_causes_one_warning_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    advice: str,
    place: str,
) -> None:
    monkeypatch.setattr("shared.unknown_settings._warned", set())
    if place == "environment":
        monkeypatch.setenv(name, "s3cret-value")
    else:
        (tmp_path / ".env").write_text(f"{name}=s3cret-value\n")
    load_settings()
    load_settings()
    assert [record.getMessage() for record in caplog.records] == [
        f"{name}: there is no such setting, so it has no effect; {advice}"
    ]


def test_variables_of_other_programs_are_not_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("SUPABASE_ACCESS_TOKEN", "SUPABASE_DB_PASSWORD", "OPENAI_ORG_ID", "OLLAMA_HOST", "DATABASE_URI", "LANG_X")
    for name in names:
        monkeypatch.setenv(name, "x")
    # A second database address beside DATABASE_URL is ignored.
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1/db")
    load_settings()
    assert caplog.records == []


def test_every_combination_that_lacks_something_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPABASE_URL", "https://project.supabase.co")
    monkeypatch.setenv("EMBEDDING_PROVIDER", "openai")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "SUPABASE_SERVICE_ROLE_KEY: " in caught.value.message
    assert "OPENAI_API_KEY: " in caught.value.message


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"SUPABASE_SERVICE_ROLE_KEY": "s3cret-value"}, "SUPABASE_URL"),
        ({"EMBEDDING_PROVIDER": "openai"}, "OPENAI_API_KEY"),
        ({"GENERATION_PROVIDER": "openai"}, "OPENAI_API_KEY"),
        ({"DATABASE_URL": "mysql://user:s3cret-value@host/db"}, "DATABASE_URL"),
        ({"OLLAMA_URL": "localhost:11434/s3cret-value"}, "OLLAMA_URL"),
        ({"EMBEDDING_DIMENSIONS": "s3cret-value"}, "EMBEDDING_DIMENSIONS"),
        ({"EMBEDDING_PROVIDER": "s3cret-value"}, "EMBEDDING_PROVIDER"),
    ],
)
def test_a_problem_names_its_variable_and_no_value(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], missing: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"{missing}: ") as caught:
        load_settings()
    assert "s3cret" not in caught.value.message
    assert caught.value.__suppress_context__, "the validation error it came from quotes the value"


def test_a_compatible_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_PROVIDER", "openai")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1/")
    assert load_settings().openai_base_url == "http://127.0.0.1:8080/v1"


def test_a_key_is_required_only_by_the_configured_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_PROVIDER", "ollama")
    assert load_settings().openai_api_key is None


def test_secrets_are_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        "SUPABASE_SERVICE_ROLE_KEY",
        "SUPABASE_ANON_KEY",
        "SUPABASE_JWT_SECRET",
        "OPENAI_API_KEY",
        "FUNCTIONS_API_KEY",
        "WEBHOOK_SECRET",
    )
    for name in secrets:
        monkeypatch.setenv(name, "s3cret-value-of-the-test")
    monkeypatch.setenv("SUPABASE_URL", "https://project.supabase.co")
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:s3cret-value@host/db")
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret-value@host/0")
    settings = load_settings()
    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_settings().log_level = "DEBUG"  # type: ignore[misc]


def test_a_dotenv_file_is_read_and_the_environment_overrides_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("EMBEDDING_PROVIDER=ollama\nEMBEDDING_MODEL=from-the-file\nUNKNOWN_TO_US=1\n")
    monkeypatch.setenv("EMBEDDING_MODEL", "from-the-environment")
    settings = load_settings()
    assert (settings.embedding_provider, settings.embedding_model) == ("ollama", "from-the-environment")


def test_lists_and_levels_are_read_leniently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://a.example, https://b.example,")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    settings = load_settings()
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.log_level == "DEBUG"


def test_env_example_lists_every_setting_once_with_a_comment() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    listed = []
    for number, line in enumerate(lines):
        match = re.match(r"#?\s?([A-Z][A-Z0-9_]+)=", line)
        if match:
            listed.append(match[1])
            above = lines[number - 1] if number else ""
            assert above.startswith("# ") or "=" in above or " # " in line, f"{match[1]} has no comment"
    assert sorted(listed) == sorted(NAMES)


def test_env_example_as_it_stands_sets_nothing_that_is_not_valid(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text(encoding="utf-8"))
    assert load_settings().database_url is None


class FakeSecrets:
    """A fake client of Secrets Manager that returns one text."""

    def __init__(self, text: str | None) -> None:
        self._text = text

    def get_secret_value(self, **_: str) -> dict[str, str]:
        return {} if self._text is None else {"SecretString": self._text}


def keep_in_secrets_manager(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    monkeypatch.setenv("SECRETS_ARN", "arn:aws:secretsmanager:eu-central-1:1:secret:s")
    monkeypatch.setattr("boto3.client", lambda *_, **__: FakeSecrets(text))


def test_the_secret_of_secrets_manager_fills_in_what_the_environment_leaves_unset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = '{"EMBEDDING_MODEL": "from-the-secret", "log_level": "debug", "DATABASE_URL": "", "OTHER": "x"}'
    keep_in_secrets_manager(monkeypatch, text)
    monkeypatch.setenv("EMBEDDING_MODEL", "from-the-environment")
    settings = load_settings()
    assert (settings.embedding_model, settings.log_level) == ("from-the-environment", "DEBUG")
    assert settings.database_url is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[1]", "JSON object"), ("s3cret-value", "JSON object"), (None, "secretsmanager:GetSecretValue")],
)
def test_a_secret_that_cannot_be_read_is_one_line_without_its_text(
    monkeypatch: pytest.MonkeyPatch, text: str | None, expected: str
) -> None:
    keep_in_secrets_manager(monkeypatch, text)
    with pytest.raises(ConfigurationError, match=r"^SECRETS_ARN: [^\n]+$") as caught:
        load_settings()
    assert expected in caught.value.message
    assert "s3cret" not in caught.value.message
