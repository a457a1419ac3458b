// An edited request as part of an address. It stands behind the #, which browsers do not send to any server.

const MAX_CHARACTERS = 4_000_000; // of what an address unpacks to: addresses come from strangers
const CANDIDATES = ["", "ranked", "unordered"];

export async function encode({ query, text, budgetMs, candidates }) {
  const json = new Blob([JSON.stringify([query, text, budgetMs, candidates])]);
  const packed = await new Response(json.stream().pipeThrough(new CompressionStream("deflate-raw"))).arrayBuffer();
  const letters = Array.from(new Uint8Array(packed), (byte) => String.fromCharCode(byte)).join("");
  return btoa(letters).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** What `encode` was given; null if `code` is nothing that it makes. */
export async function decode(code) {
  try {
    const bytes = Uint8Array.from(atob(code.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    let json = "";
    const decoder = new TextDecoder();
    for (const reader = unpacked.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      json += decoder.decode(value, { stream: true });
      if (json.length > MAX_CHARACTERS) return null;
    }
    const [query, text, budgetMs, candidates] = JSON.parse(json);
    const valid =
      typeof query === "string" && typeof text === "string" && budgetMs >= 1 && budgetMs <= 3_600_000 &&
      CANDIDATES.includes(candidates);
    return valid ? { query, text, budgetMs: Number(budgetMs), candidates } : null;
  } catch {
    return null;
  }
}
