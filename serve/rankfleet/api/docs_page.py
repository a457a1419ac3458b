"""The page of the API at /docs: one file of HTML that loads nothing, with a form to try each path."""

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre, textarea { font: 14px/1.4 ui-monospace, monospace }
summary { cursor: pointer; padding: .3rem 0 } summary b { display: inline-block; width: 3.5rem }
textarea { width: 100%; box-sizing: border-box } pre { overflow-x: auto }
table { border-collapse: collapse; margin: .5rem 0 } td { vertical-align: top; padding: .1rem .8rem }
details div { margin-left: 1rem }
"""
SCRIPT = """
for (const form of document.forms) form.onsubmit = async (event) => {
  event.preventDefault();
  const body = form.querySelector("textarea"), shown = form.querySelector("pre");
  const post = body && { method: "POST", headers: { "content-type": "application/json" }, body: body.value };
  const reply = await fetch(form.getAttribute("action"), post || {});
  const told = [...reply.headers].filter(([name]) => /rankfleet|retry|timing/.test(name));
  const lines = [reply.status, ...told.map((pair) => pair.join(": ")), "", await reply.text()];
  shown.textContent = lines.join("\\n");
};
"""


def docs_page(openapi: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI page: each path with what it takes and returns, and the types below."""
    operations = [
        operation_html(method, path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    types = [
        f'<h3 id="{name}">{name}</h3>{fields_html(schema)}' for name, schema in openapi["components"]["schemas"].items()
    ]
    title = f"{escape(openapi['info']['title'])} {escape(openapi['info']['version'])}"
    about = f'{escape(openapi["info"]["description"])} The same for programs: <a href="/openapi.json">openapi.json</a>'
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    body = "\n".join([f"<h1>{title}</h1><p>{about}</p>", *operations, "<h2>Types</h2>", *types])
    tail = f"<body>{body}<script>{SCRIPT}</script></body></html>"
    return f'<!doctype html><html lang="en"><head>{head}</head>{tail}'


def operation_html(method: str, path: str, operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    sent = headers = ""
    if content is not None:
        example = json.dumps(content["example"], indent=2)
        sent = f"<p>Body: {type_html(content['schema'])}</p><textarea rows=8>{escape(example)}</textarea>"
    if parameters := operation.get("parameters"):
        headers = "<p>Headers:</p>" + rows_html(
            (code(each["name"]), type_html(each["schema"]), prose(each["description"])) for each in parameters
        )
    replies = rows_html(
        (status, reply_type(reply), prose(reply["description"])) for status, reply in operation["responses"].items()
    )
    summary = f"<summary><b>{method.upper()}</b> {code(path)} {prose(operation['summary'])}</summary>"
    form = f'<form action="{escape(path)}">{sent}<p><button>Send</button></p><pre></pre></form>'
    return f"<details>{summary}<div>{form}{headers}<p>Replies:</p>{replies}</div></details>"


def reply_type(reply: Mapping[str, Any]) -> str:
    return type_html(reply.get("content", {}).get("application/json", {}).get("schema", {}))


def fields_html(schema: Mapping[str, Any]) -> str:
    """The fields of an object; the type of anything else."""
    if "properties" not in schema:
        return f"<p>{type_html(schema)}</p>"
    required = schema.get("required", ())
    return rows_html(
        (code(name), type_html(field) + ("" if name in required else ", optional"), prose(field.get("description", "")))
        for name, field in schema["properties"].items()
    )


def type_html(schema: Mapping[str, Any]) -> str:
    """A type in words, with links: `list of RerankReply or null`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    if options := schema.get("anyOf"):
        return " or ".join(dict.fromkeys(map(type_html, options)))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return " or ".join(code(json.dumps(value)) for value in values)
    if schema.get("type") == "array":
        return f"list of {type_html(schema.get('items', {}))}"
    if "properties" in schema:
        return "object with " + ", ".join(f"{code(name)} ({type_html(x)})" for name, x in schema["properties"].items())
    kinds = schema.get("type", "anything")
    return escape(kinds if isinstance(kinds, str) else " or ".join(kinds))


def rows_html(rows: Iterable[Iterable[str]]) -> str:
    return "<table>" + "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows) + "</table>"


def prose(text: str) -> str:
    """A sentence with `names`."""
    return re.sub("`(.+?)`", r"<code>\1</code>", escape(text))


def code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
