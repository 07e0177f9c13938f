// LangChain's SupabaseVectorStore for JavaScript on the table `documents`; prints what it got as JSON.
import { createRequire } from "node:module";

const packages = createRequire(process.env.NODE_MODULES + "/");
const { createClient } = packages("@supabase/supabase-js");
const { OpenAIEmbeddings } = packages("@langchain/openai");
const { SupabaseVectorStore } = packages("@langchain/community/vectorstores/supabase");
const { SUPABASE_URL, SERVICE_KEY, BASE_URL: baseURL, API_KEY: apiKey, MODEL: model } = process.env;

// Node 20 has no WebSocket of its own.
const client = createClient(SUPABASE_URL, SERVICE_KEY, { realtime: { transport: packages("ws") } });
const embeddings = new OpenAIEmbeddings({ model, apiKey, maxRetries: 0, configuration: { baseURL } });
const store = new SupabaseVectorStore(embeddings, { client, tableName: "documents", queryName: "match_documents" });
const contents = async (query, k, filter) =>
  (await store.similaritySearch(query, k, filter)).map((document) => document.pageContent);

let answer;
if (process.argv[2] === "write") {
  const documents = JSON.parse(process.env.TEXTS).map((pageContent, number) => ({ pageContent, metadata: { number } }));
  const ids = await store.addDocuments(documents);
  await store.addDocuments([{ pageContent: "a trumpet, muted", metadata: { number: 2 } }], { ids: [ids[2]] });
  await store.delete({ ids: [ids[3]] });
  answer = { ids: ids.map(String) };
} else {
  const [[best, score]] = await store.similaritySearchWithScore("a trumpet, muted", 1);
  answer = {
    best: [best.pageContent, best.metadata, Math.round(score * 1e4) / 1e4],
    theirs: await contents("harp, played slowly", 1),
    changed: await contents("an oboe", 1),
    ours: await contents("a bassoon from elsewhere", 1),
    filtered: await contents("a harp", 9, { number: 2 }),
  };
}
console.log(JSON.stringify(answer));
