// Ranks one request by `auto` and by every tier.

import * as api from "../lib/api.js";
import { bodyForTier } from "./request.js";

/**
 * Fill columns with answers; changed() is called after each.
 *
 * `auto` is asked first, alone, and then the tiers: those of different groups at the same time, those of one group one
 * after the other. So no request of this page waits behind another, and the times are those of a request that is alone.
 */
export async function rankAll(body, columns, tiers, changed, signal) {
  const ask = async (column, asked) => {
    try {
      column.answered(await api.rerank(asked, signal));
    } catch (error) {
      if (signal.aborted) return;
      column.failed(error);
    }
    if (!signal.aborted) changed();
  };
  const columnOf = (key) => columns.find((column) => column.key === key);
  await ask(columnOf("auto"), { ...body, model: "auto" });
  const groups = Map.groupBy(tiers, (tier) => tier.group);
  await Promise.all(
    [...groups.values()].map(async (hosted) => {
      for (const { id } of hosted) if (!signal.aborted) await ask(columnOf(id), bodyForTier(body, id));
    }),
  );
}
