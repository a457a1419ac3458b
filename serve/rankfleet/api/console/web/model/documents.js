// Documents, as people paste them: one a line, a JSON array, or JSON Lines.

/** {documents, format, note}. note: what to know about how the text was read; empty if nothing. */
export function parseDocuments(text) {
  const trimmed = text.trim();
  if (trimmed.startsWith("[")) {
    const array = readJson(trimmed);
    if (Array.isArray(array.value) && array.value.every(isDocument))
      return { documents: array.value, format: "JSON", note: "" };
    const why = array.why ?? "its items are not all texts, or objects with a text under “text”";
    return { ...lines(trimmed), note: `This begins like a JSON array, but ${why}. It is read as one document a line.` };
  }
  if (trimmed.startsWith("{")) {
    const objects = nonBlank(trimmed).map((line) => readJson(line).value);
    if (objects.every(isDocument)) return { documents: objects, format: "JSON Lines", note: "" };
  }
  return { ...lines(trimmed), note: "" };
}

export const textOf = (document) => (typeof document === "string" ? document : document.text);

const nonBlank = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const lines = (text) => ({ documents: nonBlank(text), format: "one a line" });
const isDocument = (value) => typeof value === "string" || typeof value?.text === "string";

function readJson(text) {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { why: `it cannot be read (${error.message})` };
  }
}
