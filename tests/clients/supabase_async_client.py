"""supabase-py's asynchronous client against the project that SUPABASE_URL names; prints what each caller got as JSON."""

import asyncio
import json
import os
import sys
from typing import Any

from postgrest import APIError

from supabase import AsyncClient, acreate_client


async def connect(token: str | None) -> AsyncClient:
    client = await acreate_client(os.environ["SUPABASE_URL"], os.environ["ANON_KEY"])
    if token:
        client.postgrest.auth(token)
    return client


async def code(builder: Any) -> str:
    try:
        await builder.execute()
    except APIError as error:
        return str(error.code)
    return "accepted"


async def bodies(builder: Any) -> list[str]:
    return sorted(row["body"] for row in (await builder.execute()).data)


async def of_each(callers: dict[str, AsyncClient], ask: Any) -> dict[str, list[str]]:
    """The answers of all callers, who ask at the same time."""
    return dict(zip(callers, await asyncio.gather(*(bodies(ask(one)) for one in callers.values())), strict=True))


async def main() -> dict[str, Any]:
    callers = {name: await connect(token) for name, token in json.loads(os.environ["TOKENS"]).items()}
    anna, bert, anon = callers["anna"], callers["bert"], callers["anon"]
    berts = json.loads(os.environ["OWNERS"])["bert"]
    if sys.argv[1] == "write":
        written = [
            await one.table("notes").insert({"body": f"the harp of {name}"}).execute()
            for name, one in (("anna", anna), ("bert", bert))
        ]
        return {
            "owners": [done.data[0]["owner"] for done in written],
            "for another user": await code(anna.table("notes").insert({"body": "x", "owner": berts})),
            "as anon": await code(anon.table("notes").insert({"body": "x"})),
            "claim": await code(anna.rpc("claim_embeddings", {"collection": "notes"})),
        }
    vector = json.loads(os.environ["VECTOR"])
    ways: dict[str, dict[str, Any]] = {
        "full-text": {"query_text": "harp"},
        "semantic": {"query_embedding": vector},
        "hybrid": {"query_text": "harp", "query_embedding": vector},
    }
    return {
        "searches": {
            way: await of_each(callers, lambda one, given=given: one.rpc("search_notes", given))
            for way, given in ways.items()
        },
        "rows": await of_each(callers, lambda one: one.table("notes").select("body")),
        "another user's row": (await anna.table("notes").update({"body": "x"}).eq("owner", berts).execute()).data,
        "own row": await bodies(anna.table("notes").update({"body": "a lute"}).eq("body", "the harp of anna")),
    }


print(json.dumps(asyncio.run(main())))
