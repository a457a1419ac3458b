// What people edit on the page, {query, text, budgetMs, candidates}, and the request that it makes.

import { parseDocuments } from "./documents.js";

const WHOLE_MINUTE_MS = 60_000;

/** The body of POST /v1/rerank and /v1/plan; null as long as something is missing. */
export function bodyOf({ query, text, budgetMs, candidates }) {
  const { documents } = parseDocuments(text);
  if (!query.trim() || !documents.length) return null;
  return { query, documents, slo_ms: budgetMs, ...(candidates ? { candidates } : {}) };
}

/** The same request to one tier, with time enough for any: what the tier takes is then held against the budget here. */
export const bodyForTier = (body, tier) => ({ ...body, model: tier, slo_ms: WHOLE_MINUTE_MS });
