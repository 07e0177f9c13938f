"""supabase-py against the project that SUPABASE_URL names; prints what each caller got as JSON."""

import json
import os
import sys
from typing import Any

from postgrest import APIError

from supabase import Client, create_client


def connect(token: str | None) -> Client:
    client = create_client(os.environ["SUPABASE_URL"], os.environ["ANON_KEY"])
    if token:
        client.postgrest.auth(token)
    return client


def code(builder: Any) -> str:
    try:
        builder.execute()
    except APIError as error:
        return str(error.code)
    return "accepted"


def bodies(builder: Any) -> list[str]:
    return sorted(row["body"] for row in builder.execute().data)


callers = {name: connect(token) for name, token in json.loads(os.environ["TOKENS"]).items()}
anna, bert, anon = callers["anna"], callers["bert"], callers["anon"]
berts = json.loads(os.environ["OWNERS"])["bert"]
if sys.argv[1] == "write":
    written = [one.table("notes").insert({"body": f"the harp of {name}"}) for name, one in list(callers.items())[:2]]
    answer = {
        "owners": [builder.execute().data[0]["owner"] for builder in written],
        "for another user": code(anna.table("notes").insert({"body": "x", "owner": berts})),
        "as anon": code(anon.table("notes").insert({"body": "x"})),
        "claim": code(anna.rpc("claim_embeddings", {"collection": "notes"})),
    }
else:
    vector = json.loads(os.environ["VECTOR"])
    ways: dict[str, dict[str, Any]] = {
        "full-text": {"query_text": "harp"},
        "semantic": {"query_embedding": vector},
        "hybrid": {"query_text": "harp", "query_embedding": vector},
    }
    answer = {
        "searches": {
            way: {name: bodies(one.rpc("search_notes", arguments)) for name, one in callers.items()}
            for way, arguments in ways.items()
        },
        "rows": {name: bodies(one.table("notes").select("body")) for name, one in callers.items()},
        "another user's row": anna.table("notes").update({"body": "x"}).eq("owner", berts).execute().data,
        "own row": bodies(anna.table("notes").update({"body": "a lute"}).eq("body", "the harp of anna")),
    }
print(json.dumps(answer))
