// Code that sends the request on the page: for a shell, for Python, and for LangChain.

import { textOf } from "./documents.js";

/** {name: code}. origin: of the router. keyed: whether it wants a key; code names a variable, never the key. */
export function codeFor(body, origin, keyed) {
  return { curl: curl(body, origin, keyed), Python: python(body, origin, keyed), LangChain: langchain(body, origin, keyed) };
}

function curl(body, origin, keyed) {
  const json = JSON.stringify(body, null, 2).replaceAll("'", String.raw`'\''`);
  const key = keyed ? ` \\\n  -H "authorization: Bearer $RANKFLEET_API_KEY"` : "";
  return `curl -s ${origin}/v1/rerank -H 'content-type: application/json'${key} -d '${json}'`;
}

function python(body, origin, keyed) {
  const key = keyed ? `\n    headers={"authorization": f"Bearer {os.environ['RANKFLEET_API_KEY']}"},` : "";
  return `${keyed ? "import os\n\n" : ""}import httpx

request = ${literal(body)}
reply = httpx.post(
    "${origin}/v1/rerank",
    json=request,${key}
    timeout=60,
).raise_for_status().json()
for result in reply["results"]:
    print(round(result["relevance_score"], 3), request["documents"][result["index"]])
print(reply["rankfleet"]["reason"])`;
}

function langchain(body, origin, keyed) {
  const key = keyed ? `os.environ["RANKFLEET_API_KEY"]` : `"not needed"`;
  return `# pip install langchain-cohere
${keyed ? "import os\n\n" : ""}import cohere
import httpx
from langchain_cohere import CohereRerank

# The budget goes in a header, because Cohere's format has no field for it.
http = httpx.Client(headers={"x-rankfleet-slo-ms": "${body.slo_ms}"})
client = cohere.ClientV2(api_key=${key}, base_url="${origin}/cohere", httpx_client=http)
reranker = CohereRerank(client=client, model="auto", top_n=${body.documents.length})
documents = ${literal(body.documents.map(textOf))}
for result in reranker.rerank(documents, ${literal(body.query)}):
    print(round(result["relevance_score"], 3), documents[result["index"]])`;
}

/** A Python literal of a JSON value. Strings are the same in both, and so are numbers. */
function literal(value, indent = "") {
  const deeper = `${indent}    `;
  const list = (items, [open, close]) =>
    items.length ? `${open}\n${items.map((item) => `${deeper}${item},\n`).join("")}${indent}${close}` : open + close;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return list(value.map((each) => literal(each, deeper)), "[]");
  if (typeof value === "object")
    return list(Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each, deeper)}`), "{}");
  return JSON.stringify(value);
}
