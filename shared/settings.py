"""Reads the settings from the environment, `.env` and AWS Secrets Manager, and reports every problem by its variable."""

import logging
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    AWSSecretsManagerSettingsSource,
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from shared.errors import ConfigurationError, hide_userinfo
from shared.logs import remember_secrets
from shared.unknown_settings import warn_of_unknown

log = logging.getLogger(__name__)

Provider = Literal["onnx", "ollama", "openai"]

# Keys must be long, because anyone on the network can try keys without a limit.
MIN_KEY_LENGTH = 16
# The most characters of a prefix. An instruction to a model has a sentence or two.
MAX_PREFIX = 1000

_PROGRAM = Path(__file__).resolve().parents[1]
# Settings that are addresses. Only a user and password in them are secret, and not the whole value.
_ADDRESSES = ("supabase_url", "ollama_url", "openai_base_url")

_warned_of: set[Path] = set()


def _read_secret(settings_cls: type[BaseSettings], name: str) -> dict[str, Any]:
    """The settings in the secret that SECRETS_ARN names."""
    try:
        # This package is part of Lambda's runtime, with boto3.
        from botocore.exceptions import BotoCoreError, ClientError

        values = AWSSecretsManagerSettingsSource(settings_cls, name, case_sensitive=False)()
    except ImportError:
        raise ConfigurationError("SECRETS_ARN: reading it needs the package boto3: pip install boto3") from None
    except (BotoCoreError, ClientError, KeyError) as error:
        raise ConfigurationError(
            f"SECRETS_ARN: the secret cannot be read ({type(error).__name__}); "
            "check its name and the role's secretsmanager:GetSecretValue"
        ) from None
    except (AttributeError, ValueError):
        raise ConfigurationError(
            'SECRETS_ARN: the secret must be a JSON object: {"FUNCTIONS_API_KEY": "..."}'
        ) from None
    return {key: value for key, value in values.items() if value not in ("", None)}


class Settings(BaseSettings):
    """Settings from the environment and `.env`. A variable is the name of the field in capitals; see .env.example.

    An empty string counts as unset. A key is required only if the chosen provider or database needs it.
    """

    # load_settings names the file `.env`.
    model_config = SettingsConfigDict(env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore", frozen=True)

    # Database
    supabase_url: str | None = None
    supabase_service_role_key: SecretStr | None = None
    supabase_anon_key: SecretStr | None = None
    supabase_jwt_secret: SecretStr | None = None
    database_url: SecretStr | None = None
    tonnetz_data_dir: Annotated[Path, AfterValidator(lambda path: home() / path.expanduser())] = Field(
        default=Path(".tonnetz"), validate_default=True
    )
    tonnetz_env_file: Path | None = None

    # Embeddings
    embedding_provider: Provider = "onnx"
    embedding_model: str | None = None
    embedding_dimensions: Annotated[int, Field(ge=1, le=4000)] | None = None
    embedding_price_per_million: Annotated[float, Field(ge=0)] | None = None
    embedding_budget_per_day: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    embedding_query_prefix: Annotated[str, Field(max_length=MAX_PREFIX)] | None = None
    embedding_document_prefix: Annotated[str, Field(max_length=MAX_PREFIX)] | None = None
    embedding_input_types: Annotated[tuple[str, str] | None, NoDecode] = None
    onnx_model: str | None = None
    onnx_precision: Literal["auto", "fp32", "int8"] = "auto"
    ollama_url: str = "http://127.0.0.1:11434"
    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None

    # Synonyms
    generation_provider: Literal["ollama", "openai"] | None = None
    generation_model: str | None = None

    # Functions
    functions_api_key: SecretStr | None = None
    webhook_secret: SecretStr | None = None
    redis_url: SecretStr | None = None
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()
    console: bool | None = None
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)] = "INFO"
    task_function: str | None = None
    api_base_path: str | None = None
    secrets_arn: str | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        read = [source for source in (env_settings, dotenv_settings) if isinstance(source, EnvSettingsSource)]
        variables = {name for source in read for name in source.env_vars}
        warn_of_unknown(variables, {name.upper() for name in settings_cls.model_fields})
        secret = next((arn for source in read if (arn := source.env_vars.get("secrets_arn"))), None)
        values = _read_secret(settings_cls, secret) if secret else {}
        # The values of the secret come last, so that variables of the environment replace them.
        return init_settings, *read, InitSettingsSource(settings_cls, values)

    @field_validator(
        "supabase_url", "ollama_url", "openai_base_url", "database_url", "functions_api_key", "webhook_secret",
        "allowed_origins", "api_base_path", "embedding_input_types", mode="before",
    )  # fmt: skip
    @classmethod
    def _has_its_form(cls, value: Any, info: ValidationInfo) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(text, str):
            return value
        if info.field_name == "allowed_origins":
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if info.field_name == "api_base_path":
            return f"/{text.strip('/')}" if text.strip("/") else None
        if info.field_name == "embedding_input_types":
            types = tuple(part.strip() for part in text.split(","))
            if len(types) != 2 or not all(re.fullmatch(r"[\w.:-]{1,64}", part) for part in types):
                raise ValueError("must be two words, one for queries and one for documents: query,passage")
            return types
        if info.field_name in ("functions_api_key", "webhook_secret"):
            if len(text) < MIN_KEY_LENGTH or not text.isprintable() or " " in text:
                raise ValueError(
                    f"must have at least {MIN_KEY_LENGTH} characters and no blanks; `openssl rand -hex 24` makes one"
                )
            return value
        if info.field_name == "database_url":
            if not text.startswith(("postgresql://", "postgres://")):
                quoted = text[:1] in "\"'"
                raise ValueError("remove the quotes around it" if quoted else "must start with postgresql://")
            return value
        if not text.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return text.rstrip("/")

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        project, key = self.supabase_url, self.supabase_service_role_key
        openai = self.openai_api_key or self.openai_base_url
        copy = "copy it from the project settings, API"
        checks = {
            f"SUPABASE_SERVICE_ROLE_KEY: is needed with SUPABASE_URL; {copy}": project and not key,
            f"SUPABASE_URL: is needed with SUPABASE_SERVICE_ROLE_KEY; {copy}": key and not project,
        }
        for kind in ("EMBEDDING_PROVIDER", "GENERATION_PROVIDER"):
            message = f"OPENAI_API_KEY: is needed for {kind}=openai (or set OPENAI_BASE_URL)"
            checks[message] = getattr(self, kind.lower()) == "openai" and not openai
        message = (
            "EMBEDDING_INPUT_TYPES: is for EMBEDDING_PROVIDER=openai; EMBEDDING_QUERY_PREFIX is for every provider"
        )
        checks[message] = self.embedding_input_types and self.embedding_provider != "openai"
        problems = [message for message, broken in checks.items() if broken]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def secrets(self) -> list[str]:
        """The values that must appear in no output, with the passwords in URLs, both as written and decoded."""
        values = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        addresses = [address for name in _ADDRESSES if (address := getattr(self, name))]
        return values + [secret for url in [*values, *addresses] for secret in _secrets_in(url)]

    @field_serializer(*_ADDRESSES)
    def _without_userinfo(self, value: str | None) -> str | None:
        return value and hide_userinfo(value)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, hide_userinfo(value) if isinstance(value, str) else value


def _secrets_in(url: str) -> set[str]:
    """The password of a URL, as written and decoded. An http URL without a password may have a key as its user."""
    try:
        parts = urlsplit(url) if "://" in url else None
    except ValueError:
        return set()
    if parts is None:
        return set()
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    asked = {value for name, value in parse_qsl(parts.query) if "password" in name.lower()}
    written = {password or (user if parts.scheme in ("http", "https") else ""), *asked}
    return {form for one in written for form in (one, unquote(one), unquote_plus(one)) if form}


def home() -> Path:
    """The folder of `.env`; relative paths in settings start from it. It is the checkout.

    If the program is installed as a package, it is a folder in the user's home. It is never the current folder, because
    another user may have put files there.
    """
    if (_PROGRAM / "pyproject.toml").is_file():
        return _PROGRAM
    try:
        return Path.home()
    except RuntimeError:
        return _PROGRAM


def find_env_file() -> Path:
    """The file that TONNETZ_ENV_FILE names, else `.env` of the checkout, or `~/.tonnetz/.env` for an installed package.

    Raises ConfigurationError if TONNETZ_ENV_FILE names a file that does not exist.
    """
    if named := os.environ.get("TONNETZ_ENV_FILE"):
        file = home() / Path(named).expanduser()
        if not file.exists():
            raise ConfigurationError("TONNETZ_ENV_FILE: there is no such file; correct it, or unset it")
        return file
    return home() / ".env" if home() == _PROGRAM else home() / ".tonnetz" / ".env"


def _warn_of_access(file: Path) -> None:
    """Warn once if other users can read or change the file."""
    if file in _warned_of or os.name != "posix":
        return
    try:
        mode = file.stat().st_mode
        closed = not all(folder.stat().st_mode & stat.S_IXOTH for folder in file.resolve().parents)
    except OSError:
        return
    if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH) and not closed:
        _warned_of.add(file)
        can = "change" if mode & stat.S_IWOTH else "read"
        log.warning("%s: other users of this machine can %s this file, which may contain keys; chmod 600 it", file, can)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; raise one ConfigurationError with a line for each problem.

    The lines name variables, never values: a value that is not valid may still be a key.
    """
    file = find_env_file()
    _warn_of_access(file)
    try:
        settings = Settings(_env_file=file, **overrides)  # type: ignore[call-arg]
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        raise ConfigurationError("\n".join(_explain(problem) for problem in problems)) from None
    remember_secrets(settings.secrets())
    return settings


def _explain(problem: ErrorDetails) -> str:
    """Describe the problem: the variable, the error and a valid value."""
    context = problem.get("ctx", {})
    message = {
        "literal_error": "must be {expected}",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_parsing": "must be a number",
        "finite_number": "must be a number",
        "bool_parsing": "must be true or false",
        "greater_than_equal": "must be at least {ge}",
        "less_than_equal": "must be at most {le}",
        "string_too_long": "must have at most {max_length} characters",
    }.get(problem["type"], "{message}")
    text = message.format(**{"message": problem["msg"].removeprefix("Value error, "), **context}).replace("'", "")
    return f"{str(problem['loc'][0]).upper()}: {text}" if problem["loc"] else text
