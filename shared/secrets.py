"""Settings that are kept in AWS Secrets Manager."""

from typing import Any

import orjson

from shared.errors import ConfigurationError


def read_secret(name: str) -> dict[str, Any]:
    """The secret's JSON object, by field names in lower case. Raises ConfigurationError, which quotes nothing of it."""
    try:
        # Part of Lambda's runtime.
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise ConfigurationError("SECRETS_ARN: reading it needs the package boto3: pip install boto3") from None
    try:
        text = boto3.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
    except (BotoCoreError, ClientError, KeyError) as error:
        raise ConfigurationError(
            f"SECRETS_ARN: the secret cannot be read ({type(error).__name__}); "
            "check its name and the role's secretsmanager:GetSecretValue"
        ) from None
    try:
        values = orjson.loads(text)
    except orjson.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        raise ConfigurationError('SECRETS_ARN: the secret must be a JSON object: {"FUNCTIONS_API_KEY": "..."}')
    return {str(key).lower(): value for key, value in values.items() if value not in ("", None)}
