"""The documentation page: the OpenAPI document as one plain HTML file.

The pages quart-schema brings load a script from a content delivery network, which a machine without
one cannot show and which would run a third party's code on the API's own origin. This one needs no
script at all.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from hashlib import sha256
from html import escape
from typing import Any

from task_queue_engine.http.problems import PROBLEM_TYPES

Json = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 3rem; border-bottom: 1px solid #8886; }
h3 { margin-top: 2.5rem; }
code, pre { font: 0.9em ui-monospace, monospace; }
pre { padding: 0.75rem; overflow-x: auto; border: 1px solid #8886; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.75rem 0.3rem 0;
  border-bottom: 1px solid #8883; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 700; }
.note { opacity: 0.75; }
"""

_STYLE_HASH = base64.b64encode(sha256(_STYLE.encode()).digest()).decode()

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_EXAMPLE = """curl -X POST {url}/tasks \\
  -H 'Content-Type: application/json' \\
  -d '{{"type": "email", "payload": "user@example.com"}}'"""


def render(document: Json, url: str) -> str:
    """The whole page; `url` is where the server is, as the reader of the page has it."""
    info = document["info"]
    title = escape(info["title"])
    body = "\n".join(_sections(document))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{title} <span class="note">{escape(info["version"])}</span></h1>\n'
        f"<p>{_prose(info['description'])}</p>\n"
        '<p>As a document for programs: <a href="/openapi.json">openapi.json</a></p>\n'
        f"<pre>{escape(_EXAMPLE.format(url=url))}</pre>\n{body}\n</body>\n</html>\n"
    )


def _sections(document: Json) -> Iterator[str]:
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'].capitalize())}</h2><p>{_prose(tag['description'])}</p>"
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if tag["name"] in operation.get("tags", ()):
                    yield from _operation(method, path, operation)
    yield "<h2>Schemas</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield from _schema(name, schema)
    yield "<h2>Problems</h2>"
    yield "<p>The <code>type</code> of a problem is its link to this list.</p><table>"
    yield "<tr><th>Problem</th><th>Status</th><th>Meaning</th></tr>"
    for kind in PROBLEM_TYPES.values():
        yield (
            f'<tr id="{kind.slug}"><td><code>{kind.slug}</code></td><td>{kind.status}</td>'
            f"<td>{_prose(kind.meaning)}</td></tr>"
        )
    yield "</table>"


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield (
        f'<h3 id="{escape(operation["operationId"])}"><code>'
        f'<span class="method">{method.upper()}</span> {escape(path)}</code></h3>'
    )
    yield f"<p>{_prose(operation.get('summary', ''))} {_prose(operation.get('description', ''))}"
    if operation.get("security") == []:
        yield " No API key is needed."
    else:
        roles = [role for each in operation.get("security", ()) for role in each.get("api_key", ())]
        if roles:
            yield f" Needs the role {escape(', '.join(roles))}."
    yield "</p>"
    parameters = operation["parameters"]
    if parameters:
        yield "<table><tr><th>Parameter</th><th>In</th><th>Type</th><th></th></tr>"
        for parameter in parameters:
            yield (
                f"<tr><td><code>{escape(parameter['name'])}</code></td>"
                f"<td>{escape(parameter['in'])}</td><td>{_type(parameter['schema'])}</td>"
                f"<td>{_prose(parameter.get('description', ''))}</td></tr>"
            )
        yield "</table>"
    if "requestBody" in operation:
        yield f"<p>Body: {_type(_content(operation['requestBody']))}</p>"
    answers = [
        f"{status}: {_type(_content(response))}"
        for status, response in operation["responses"].items()
        if "content" in response
    ]
    yield f"<p>Answers: {'; '.join(answers)}; else a problem.</p>"


def _content(holder: Json) -> Json:
    schema: Json = next(iter(holder["content"].values()))["schema"]
    return schema


def _schema(name: str, schema: Json) -> Iterator[str]:
    yield f'<h3 id="schema-{escape(name)}">{escape(name)}</h3>'
    yield f"<p>{_prose(schema.get('description', ''))}</p>"
    if "properties" not in schema:
        yield f"<p>{_type(schema)}</p>"
        return
    required = schema.get("required", ())
    yield "<table><tr><th>Member</th><th>Type</th><th></th></tr>"
    for member, described in schema["properties"].items():
        note = "" if member in required else ' <span class="note">optional</span>'
        yield (
            f"<tr><td><code>{escape(member)}</code>{note}</td><td>{_type(described)}</td>"
            f"<td>{_prose(described.get('description', ''))}</td></tr>"
        )
    yield "</table>"


def _type(schema: Json) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = escape(str(schema.get("format") or schema.get("type") or "any JSON"))
    low = schema.get("minimum", schema.get("exclusiveMinimum", schema.get("minLength")))
    high = schema.get("maximum", schema.get("maxLength"))
    if low is not None and high is not None:
        kind += f" ({low:g} to {high:g})"
    return kind


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
