// supabase-js against the project that SUPABASE_URL names; prints what each caller got as JSON.
import { createRequire } from "node:module";

const packages = createRequire(process.env.NODE_MODULES + "/");
const { createClient } = packages("@supabase/supabase-js");
// Node 20 has no WebSocket of its own.
const realtime = { transport: packages("ws") };
const { SUPABASE_URL: url, ANON_KEY: key } = process.env;
const connect = (token) =>
  createClient(url, key, token ? { realtime, accessToken: async () => token } : { realtime });

const given = Object.entries(JSON.parse(process.env.TOKENS));
const callers = Object.fromEntries(given.map(([name, token]) => [name, connect(token)]));
const { anna, bert, anon } = callers;
const berts = JSON.parse(process.env.OWNERS).bert;

const rows = async (builder) => {
  const { data, error } = await builder;
  if (error) throw new Error(JSON.stringify(error));
  return data;
};
const bodies = async (builder) => (await rows(builder)).map((row) => row.body).sort();
const code = async (builder) => (await builder).error?.code ?? "accepted";
const ofEach = async (ask) => {
  const found = {};
  for (const [name, client] of Object.entries(callers)) found[name] = await bodies(ask(client));
  return found;
};

let answer;
if (process.argv[2] === "write") {
  const write = (client, name) => client.from("notes").insert({ body: `the harp of ${name}` }).select().single();
  answer = {
    owners: [(await rows(write(anna, "anna"))).owner, (await rows(write(bert, "bert"))).owner],
    "for another user": await code(anna.from("notes").insert({ body: "x", owner: berts })),
    "as anon": await code(anon.from("notes").insert({ body: "x" })),
    claim: await code(anna.rpc("claim_embeddings", { collection: "notes" })),
  };
} else {
  const vector = JSON.parse(process.env.VECTOR);
  const search = (named) => ofEach((client) => client.rpc("search_notes", named));
  answer = {
    searches: {
      "full-text": await search({ query_text: "harp" }),
      semantic: await search({ query_embedding: vector }),
      hybrid: await search({ query_text: "harp", query_embedding: vector }),
    },
    rows: await ofEach((client) => client.from("notes").select("body")),
    "another user's row": await rows(anna.from("notes").update({ body: "x" }).eq("owner", berts).select()),
    "own row": await bodies(anna.from("notes").update({ body: "a lute" }).eq("body", "the harp of anna").select()),
  };
}
console.log(JSON.stringify(answer));
