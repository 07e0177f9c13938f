"""The official client, made the same way for everything that is asked of OpenAI or a compatible server."""

from typing import TYPE_CHECKING

from pydantic import SecretStr

from shared.errors import ConfigurationError
from shared.providers.answer_bounds import bound_answers, bound_timeout

if TYPE_CHECKING:
    from openai import OpenAI

DEFAULT_BASE_URL = "https://api.openai.com/v1"


def check_key(api_key: SecretStr) -> SecretStr:
    """The key without blanks around it. Raises ConfigurationError for one that no header can carry."""
    key = api_key.get_secret_value().strip()
    # Checked here because the HTTP library's own error would print the whole header.
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigurationError("OPENAI_API_KEY is empty, or holds a character that no HTTP header can carry")
    return SecretStr(key)


def connect_openai(key: SecretStr, base_url: str, timeout: float, *, setting: str) -> "OpenAI":
    """A client that never retries by itself. `setting` is what asks for the package openai."""
    try:
        import httpx2
        import openai
    except ImportError as error:
        raise ConfigurationError(f"{setting} needs the package openai: pip install openai") from error
    limits = bound_timeout(httpx2, timeout, None)
    return openai.OpenAI(
        api_key=key.get_secret_value(),
        base_url=base_url,
        timeout=limits,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(
            timeout=limits,
            # The package's own default is to follow, and so to send the texts to whatever host an answer names.
            follow_redirects=False,
            event_hooks=bound_answers(httpx2),
        ),
    )
