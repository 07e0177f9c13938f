// OpenAI's JavaScript client against the server that BASE_URL names; prints what it got as JSON.
import { createRequire } from "node:module";

const OpenAI = createRequire(process.env.NODE_MODULES + "/")("openai");
const { BASE_URL: baseURL, API_KEY: apiKey, MODEL: model } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const texts = JSON.parse(process.env.TEXTS);

const embed = async (input, options = {}) =>
  (await client.embeddings.create({ model, input, ...options })).data.map((one) => Array.from(one.embedding));
const vectors = {
  default: await embed(texts),
  float: await embed(texts, { encoding_format: "float" }),
  tokens: await embed(JSON.parse(process.env.TOKENS)),
};
const models = [];
for await (const one of client.models.list()) models.push(one.id);
let refused = "";
try {
  await client.embeddings.create({ model: "another", input: "a" });
} catch (error) {
  refused = `${error.constructor.name} ${error.status} ${error.code}`;
}
console.log(JSON.stringify({ vectors, models: [...models, (await client.models.retrieve(model)).id], refused }));
