"""The chat routes of the protocol server: Ollama's /api/chat and OpenAI's /v1/chat/completions, which write synonyms."""

import json
from typing import Any

from tests.protocol_faults import Fault, Refusal, ollama_error, openai_error

PATHS = ("/api/chat", "/v1/chat/completions")
OLLAMA_CHAT_MODELS = ("llama3.2:1b", "gemma2:2b")
OPENAI_CHAT_MODELS = ("gpt-4o-mini", "gpt-4o")


def read_messages(body: dict[str, Any]) -> list[str]:
    """The messages as texts, in which a fault can look for a word."""
    return [str(message.get("content")) for message in body.get("messages", [])]


def admit(path: str, body: dict[str, Any]) -> None:
    """Refuse requests that the real servers refuse, and requests without a schema for the answer."""
    model = str(body.get("model"))
    if path == "/api/chat":
        if model not in OLLAMA_CHAT_MODELS:
            raise Refusal(404, ollama_error(f"model '{model}' not found"))
        if not isinstance(body.get("format"), dict) or body.get("stream") is not False:
            raise Refusal(400, ollama_error("this server only answers under a JSON schema, in one piece"))
        return
    if model not in OPENAI_CHAT_MODELS:
        raise Refusal(404, openai_error(f"The model `{model}` does not exist", code="model_not_found"))
    asked = body.get("response_format", {})
    if asked.get("type") != "json_schema" or asked["json_schema"].get("strict") is not True:
        raise Refusal(400, openai_error("this server only answers in strict mode"))
    _check_strict(asked["json_schema"]["schema"])


def answer(path: str, body: dict[str, Any], fault: Fault | None, vocabulary: dict[str, list[str]]) -> str:
    """An answer in the form of the protocol. The fault `chat` answers `content`, `refusal` refuses."""
    content: str | None = json.dumps(synonyms(_tag(body), vocabulary))
    refusal = None
    if fault is not None and fault.kind == "chat":
        content = fault.options["content"]
    elif fault is not None and fault.kind == "refusal":
        content, refusal = None, "I cannot help with that."
    if path == "/api/chat":
        said = {"role": "assistant", "content": content if refusal is None else refusal}
        return json.dumps({"model": body["model"], "message": said, "done": True, "done_reason": "stop"})
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return json.dumps(
        {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }
    )


def synonyms(name: str, vocabulary: dict[str, list[str]]) -> dict[str, Any]:
    """Valid synonyms for a tag: the words of `vocabulary`, or words made from its name."""
    words = vocabulary.get(name) or [f"{name} {word}" for word in ("music", "songs", "sound", "style")]
    return {
        "search_terms": [name, *words],
        "related_tags": [],
        "usage_context": f"Heard wherever {name} is played.",
        "translations": {"fr": [f"musique {name}"], "en": [name]},
    }


def _tag(body: dict[str, Any]) -> str:
    """The tag in the first user message; later messages are about the answer."""
    asked = next(message for message in body["messages"] if message["role"] == "user")
    return str(json.loads(asked["content"])["tag"])


def _check_strict(schema: dict[str, Any]) -> None:
    # OpenAI's strict mode: every object closed, every property required.
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False or set(schema["required"]) != set(schema["properties"]):
            raise Refusal(400, openai_error("Invalid schema for response_format 'synonyms'"))
        for part in schema["properties"].values():
            _check_strict(part)
    elif schema.get("type") == "array":
        if "uniqueItems" in schema:
            raise Refusal(400, openai_error("Invalid schema: 'uniqueItems' is not permitted"))
        _check_strict(schema["items"])
