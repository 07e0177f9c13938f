"""Prepares a server's address and message for our error messages: removes keys and the texts that were sent."""

import re
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from shared.errors import ProviderRejected

LONGEST = 200
# A part of a message that is this long and also occurs in a text counts as a quotation of the text.
QUOTED = 24
# These errors are permanent: every retry would find the same certificate, or a server without TLS.
_FINAL_TLS = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER", "HTTP_REQUEST")


def plain_reason(message: object, *, inputs: Sequence[str] = (), secrets: Iterable[str] = ()) -> str:
    """At most 200 characters of a server's message, with keys and quoted texts replaced by […].

    Servers quote refused input in their messages, and a row's text or a key must not appear in a log.
    """
    if not isinstance(message, str):
        return "no reason given"
    for secret in filter(None, secrets):
        message = message.replace(secret, "[…]")
    # A message may contain a partly masked key ("sk-ab***yz"), or a key that is not ours.
    message = re.sub(r"\b(sk|pk|Bearer)[-_ ][\w*.\-]{6,}", "[…]", message)
    for text in inputs:
        if len(text) >= 6:
            message = message.replace(text, "[…]")
    message = " ".join(_without_quotations(message[:2000], inputs).split())
    return message if len(message) <= LONGEST else message[: LONGEST - 1] + "…"


def refusal_text(body: object) -> object:
    """The reason in the body of a refusal: OpenAI's `message`, or FastAPI's `detail` with the field that it names."""
    if not isinstance(body, Mapping):
        return body
    said = body.get("message") or body.get("detail")
    first = said[0] if isinstance(said, list) and said else said
    if not isinstance(first, Mapping):
        return first
    # Leave out FastAPI's field `input`, which repeats the request.
    place, problem = first.get("loc"), str(first.get("msg", ""))
    return f"{'.'.join(map(str, place))}: {problem}" if isinstance(place, list) else problem


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, its cause, the cause of that one, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def distrust(error: BaseException, server: str, setting: str) -> ProviderRejected | None:
    """The error for a server with an untrusted certificate or without TLS; None for other connection failures."""
    said = next((str(cause) for cause in chain_of(error) if isinstance(cause, ssl.SSLError) or "SSL" in str(cause)), "")
    if not any(marker in said.upper().replace(" ", "_") for marker in _FINAL_TLS):
        return None
    return ProviderRejected(
        f"no trusted connection to {server}: its TLS certificate or protocol is not accepted; "
        f"check {setting} and SSL_CERT_FILE"
    )


def describe_server(base_url: str) -> str:
    """The address without the parts of a URL that may be secret: user, password, query."""
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def redirect_host(headers: Mapping[str, str]) -> str:
    """The host to which a redirect leads; the rest of the address may contain a secret."""
    try:
        host = urlsplit(headers.get("location", "")).hostname or ""
    except ValueError:
        host = ""
    return host if re.fullmatch(r"[\w.:-]{1,253}", host) else "another address"


def _without_quotations(message: str, inputs: Sequence[str]) -> str:
    kept: list[str] = []
    position = 0
    while position < len(message):
        end = position + QUOTED
        source = next((text for text in inputs if end <= len(message) and message[position:end] in text), None)
        if source is None:
            kept.append(message[position])
            position += 1
            continue
        while end < len(message) and message[position : end + 1] in source:
            end += 1
        kept.append("[…]")
        position = end
    return "".join(kept)
