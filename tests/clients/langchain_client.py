"""LangChain's OpenAIEmbeddings against the server that BASE_URL names; prints what it got as JSON."""

import asyncio
import json
import os

from langchain_openai import OpenAIEmbeddings

texts = json.loads(os.environ["TEXTS"])
server = {"model": os.environ["MODEL"], "base_url": os.environ["BASE_URL"], "api_key": os.environ["API_KEY"]}
# By default LangChain sends arrays of tokens.
tokens = OpenAIEmbeddings(**server, max_retries=0)
plain = OpenAIEmbeddings(**server, max_retries=0, check_embedding_ctx_length=False)
vectors = {
    "tokens": tokens.embed_documents(texts),
    "tokens, async": asyncio.run(tokens.aembed_documents(texts)),
    "texts": plain.embed_documents(texts),
    "query": [tokens.embed_query(text) for text in texts],
}
print(json.dumps({"vectors": vectors}))
