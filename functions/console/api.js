// Sends every request to the server. The key is stored only in this variable and is lost when the tab is closed.

let key = null;
const events = new EventTarget();

/** An error that the server returned. */
export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = error?.code ?? "unknown";
    this.requestId = error?.request_id ?? null;
  }
}

/** The error if the server did not answer. */
export class ServerGone extends Error {
  constructor() {
    super("the server does not answer");
  }
}

/** Sends the events `key` (the key was set or removed), `gone` (the server does not answer) and `back` (it answers again). */
export const on = (name, listener) => events.addEventListener(name, listener);
export const tell = (name) => events.dispatchEvent(new Event(name));

let gone = false;
on("gone", () => (gone = true));

/** Fetch a small file to check whether the server answers. */
export const alive = () => fetch("/console/icon.svg", { cache: "no-cache" }).catch(() => gone || tell("gone"));

export function useKey(value) {
  key = value;
  tell("key");
}
export const forgetKey = () => useKey(null);
export const hasKey = () => key !== null;

/** The JSON answer of a route. With `keyed: false` no key is sent, because the route is public. */
export async function call(path, { method = "GET", body, signal, keyed = true } = {}) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (keyed && key !== null) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    const text = body === undefined ? undefined : JSON.stringify(body);
    response = await fetch(path, { method, headers, body: text, signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (!gone) tell("gone");
    throw new ServerGone();
  }
  if (gone) {
    gone = false;
    tell("back");
  }
  const answer = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (!response.ok) throw new ApiError(response.status, answer?.error);
  return answer;
}

export const post = (path, body, options) => call(path, { method: "POST", body, ...options });

/** The path of an API route from its segments, each escaped. */
export const path = (...parts) => `/api/${parts.map(encodeURIComponent).join("/")}`;

/** Keeps only the latest of several calls: a new call, or `stop`, aborts the previous one, which then returns null. */
export function newest() {
  let running = null;
  const stop = () => running?.abort();
  const latest = async (make) => {
    stop();
    const mine = (running = new AbortController());
    try {
      const answer = await make(mine.signal);
      return mine.signal.aborted ? null : answer;
    } catch (error) {
      if (mine.signal.aborted) return null;
      throw error;
    }
  };
  return Object.assign(latest, { stop });
}
