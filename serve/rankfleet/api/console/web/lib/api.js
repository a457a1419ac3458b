// The router's API. Errors are of one kind, in words.

import { storedKey } from "./key.js";

export class ApiError extends Error {
  /** message: for people, says what to do. retryMs: after which time a retry can help; null if it cannot. */
  constructor(message, { code = "", status = 0, requestId = "", retryMs = null } = {}) {
    super(message);
    Object.assign(this, { code, status, requestId, retryMs });
  }
}

let askForKey = null;

/** ask(refused): a promise of whether there is a key now. refused: whether one was sent and not accepted. */
export function onKeyWanted(ask) {
  askForKey = ask;
}

export const rerank = (body, signal) => call("POST", "/v1/rerank", body, signal);
export const plan = (body, signal) => call("POST", "/v1/plan", body, signal);
export const models = async (signal) => (await call("GET", "/v1/models", undefined, signal)).data;

export const fleet = (signal) => call("GET", "/v1/fleet", undefined, signal);

/** {status, reason, not_changed}, whether the router is ready or not. */
export async function readiness() {
  const response = await reach("/readyz", {});
  return response.json();
}

async function call(method, path, body, signal) {
  for (;;) {
    const key = storedKey();
    const headers = {
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...(key ? { authorization: `Bearer ${key}` } : {}),
    };
    const response = await reach(path, { method, headers, signal, body: body && JSON.stringify(body) });
    if (response.ok) return response.json();
    if (response.status === 401 && askForKey && (await askForKey(key))) continue;
    throw await errorOf(response);
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    const where = `The router at ${location.host} does not answer`;
    throw new ApiError(`${where}. See whether it still runs, then try again.`, { code: "unreachable", retryMs: 0 });
  }
}

async function errorOf(response) {
  const { status, headers } = response;
  let said = {};
  try {
    said = (await response.json()).error ?? {};
  } catch {
    // A proxy in between answers in HTML; its status is all there is to tell.
  }
  const retryMs = Number(headers.get("retry-after-ms")) || (status === 503 ? 0 : null);
  return new ApiError(said.message ?? `The server answered ${status} ${response.statusText}`, {
    code: said.code,
    status,
    requestId: said.request_id,
    retryMs,
  });
}
