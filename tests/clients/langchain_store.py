"""LangChain's SupabaseVectorStore for Python on the table `documents`; prints what it got as JSON."""

import json
import os
import sys
from typing import Any

from langchain_community.vectorstores import SupabaseVectorStore
from langchain_core.documents import Document
from langchain_openai import OpenAIEmbeddings

from supabase import create_client

embeddings = OpenAIEmbeddings(
    model=os.environ["MODEL"],
    base_url=os.environ["BASE_URL"],
    api_key=os.environ["API_KEY"],
    check_embedding_ctx_length=False,
    max_retries=0,
)
store = SupabaseVectorStore(
    client=create_client(os.environ["SUPABASE_URL"], os.environ["SERVICE_KEY"]),
    embedding=embeddings,
    table_name="documents",
    query_name="match_documents",
)


def contents(found: list[Document]) -> list[str]:
    return [document.page_content for document in found]


answer: dict[str, Any]
if sys.argv[1] == "write":
    texts = json.loads(os.environ["TEXTS"])
    ids = store.add_texts(texts, metadatas=[{"number": number} for number in range(len(texts))])
    store.add_texts(["a trumpet, muted"], metadatas=[{"number": 2}], ids=[ids[2]])
    store.delete([ids[3]])
    answer = {"ids": ids}
else:
    ((best, score),) = store.similarity_search_with_relevance_scores("a trumpet, muted", k=1)
    answer = {
        "best": [best.page_content, best.metadata, round(score, 4)],
        "theirs": contents(store.similarity_search("harp, played slowly", k=1)),
        "changed": contents(store.similarity_search("an oboe", k=1)),
        "ours": contents(store.similarity_search("a bassoon from elsewhere", k=1)),
        "filtered": contents(store.similarity_search("a harp", k=9, filter={"number": 2})),
    }
print(json.dumps(answer))
