"""LiteLLM against the server that BASE_URL names; prints what it got as JSON."""

import asyncio
import json
import os

# Without this, the import fetches a list of prices from the internet.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

texts, model = json.loads(os.environ["TEXTS"]), os.environ["MODEL"]
server = {"api_base": os.environ["BASE_URL"], "api_key": os.environ["API_KEY"], "max_retries": 0}
# LiteLLM sends a width only for models that it knows, unless the parameter is listed as allowed.
width = {"dimensions": int(os.environ["WIDTH"]), "allowed_openai_params": ["dimensions"]}


def rows(answer: litellm.EmbeddingResponse) -> list[list[float]]:
    return [one["embedding"] for one in answer.data]


# LiteLLM sends `encoding_format: null` unless it is set.
vectors = {
    "openai": rows(litellm.embedding(f"openai/{model}", texts, **server)),
    "openai, async": rows(asyncio.run(litellm.aembedding(f"openai/{model}", texts, **server))),
    "hosted_vllm": rows(litellm.embedding(f"hosted_vllm/{model}", texts, **server)),
    "dimensions": rows(litellm.embedding(f"openai/{model}", texts, **width, **server)),
}
refused = ""
try:
    litellm.embedding("openai/another", texts, **server)
except litellm.NotFoundError as error:
    refused = str(error.status_code)
print(json.dumps({"vectors": vectors, "refused": refused}))
