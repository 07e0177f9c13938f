"""LlamaIndex's embeddings against the server that BASE_URL names; prints what they got as JSON."""

import asyncio
import json
import os

from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

texts = json.loads(os.environ["TEXTS"])
server = {"model_name": os.environ["MODEL"], "api_base": os.environ["BASE_URL"], "api_key": os.environ["API_KEY"]}
# Use `model_name`, which is sent unchanged: `model` accepts only the names of OpenAI's own models.
own = OpenAIEmbedding(**server, max_retries=0, embed_batch_size=2)
like = OpenAILikeEmbedding(**server, max_retries=0)
vectors = {
    "OpenAIEmbedding": own.get_text_embedding_batch(texts),
    "OpenAIEmbedding, async": asyncio.run(own.aget_text_embedding_batch(texts)),
    "OpenAILikeEmbedding": like.get_text_embedding_batch(texts),
    "query": [like.get_query_embedding(text) for text in texts],
}
print(json.dumps({"vectors": vectors}))
