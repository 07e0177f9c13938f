"""Reads the settings from the environment, `.env` and AWS Secrets Manager, and reports every problem by its variable."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    AWSSecretsManagerSettingsSource,
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from shared.errors import ConfigurationError
from shared.unknown_settings import warn_of_unknown

Provider = Literal["onnx", "ollama", "openai"]

# Anyone on the network can try keys, as many as they like.
MIN_KEY_LENGTH = 16


class _SecretSource(PydanticBaseSettingsSource):
    """The secret that SECRETS_ARN names. Read last, so that the environment wins."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        name = self.current_state.get("secrets_arn")
        if not name:
            return {}
        try:
            # Part of Lambda's runtime, with boto3.
            from botocore.exceptions import BotoCoreError, ClientError

            values = AWSSecretsManagerSettingsSource(self.settings_cls, name, case_sensitive=False)()
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
    """Settings from the environment and `.env`, by the names of the fields in capitals; .env.example explains each.

    An empty string counts as unset. A key is required only if the chosen provider or database needs it.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore", frozen=True
    )

    # Database
    supabase_url: str | None = None
    supabase_service_role_key: SecretStr | None = None
    supabase_anon_key: SecretStr | None = None
    supabase_jwt_secret: SecretStr | None = None
    database_url: SecretStr | None = None
    tonnetz_data_dir: Path = Path(".tonnetz")

    # Embeddings
    embedding_provider: Provider = "onnx"
    embedding_model: str | None = None
    embedding_dimensions: Annotated[int, Field(ge=1, le=4000)] | None = None
    embedding_price_per_million: Annotated[float, Field(ge=0)] | None = None
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
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    task_function: str | None = None
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
        return init_settings, *read, _SecretSource(settings_cls)

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("supabase_url", "ollama_url", "openai_base_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/") if value else value

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        return value

    @field_validator("functions_api_key", "webhook_secret")
    @classmethod
    def _cannot_be_guessed(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            text = value.get_secret_value()
            if len(text) < MIN_KEY_LENGTH or not text.isprintable() or " " in text:
                raise ValueError(
                    f"must have at least {MIN_KEY_LENGTH} characters and no blanks; `openssl rand -hex 24` makes one"
                )
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        problems = []
        if self.supabase_url and not self.supabase_service_role_key:
            problems.append(
                "SUPABASE_SERVICE_ROLE_KEY: is needed with SUPABASE_URL; copy it from the project settings, API"
            )
        if self.supabase_service_role_key and not self.supabase_url:
            problems.append(
                "SUPABASE_URL: is needed with SUPABASE_SERVICE_ROLE_KEY; copy it from the project settings, API"
            )
        if self.embedding_provider == "openai" and not (self.openai_api_key or self.openai_base_url):
            problems.append("OPENAI_API_KEY: is needed for EMBEDDING_PROVIDER=openai (or set OPENAI_BASE_URL)")
        if self.generation_provider == "openai" and not (self.openai_api_key or self.openai_base_url):
            problems.append("OPENAI_API_KEY: is needed for GENERATION_PROVIDER=openai (or set OPENAI_BASE_URL)")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def secrets(self) -> list[str]:
        """The values that must appear in no output, and the passwords in the URLs among them."""
        values = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        return values + [password for value in values if (password := _password(value))]


def _password(url: str) -> str | None:
    try:
        return urlsplit(url).password if "://" in url else None
    except ValueError:
        return None


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; raise one ConfigurationError with a line for each problem.

    The lines name variables, never values: a value that is not valid may still be a key.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        raise ConfigurationError("\n".join(_explain(problem) for problem in problems)) from None


def _explain(problem: ErrorDetails) -> str:
    """The problem in our words: the variable, what is wrong and what to write."""
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
    }.get(problem["type"], "{message}")
    text = message.format(**{"message": problem["msg"].removeprefix("Value error, "), **context}).replace("'", "")
    return f"{str(problem['loc'][0]).upper()}: {text}" if problem["loc"] else text
