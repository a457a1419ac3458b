"""Bounds on requests that no fleet file changes; those that it does are `Limits` in `core/sections.py`.

docs/api.md lists all of them under "Limits".
"""

# Latency budgets in milliseconds. A shorter one is nearly always meant in seconds, and a longer one is of no use.
MIN_SLO_MS, MAX_SLO_MS = 1.0, 3_600_000.0
# Of clients, at one HAProxy, and requests in progress in one router. A connection takes up to three of HAProxy's
# buffers, and UNREAD_BYTES of the kernel about twice: 2 GB for all.
MAX_CONNECTIONS, MAX_REQUESTS = 2048, 2000
# Commas, colons and brackets of a body. Parsing more takes seconds, in which the router answers nobody else.
MAX_JSON_VALUES = 1_000_000
# Of the fields to rank by (`rank_fields`) of all documents of a request, and of one document: making YAML of more takes
# most of a second, in which the router answers nobody else. Each level is indented once more.
MAX_STRUCTURED_VALUES, MAX_STRUCTURED_CHARACTERS, MAX_STRUCTURED_DEPTH = 50_000, 4_000_000, 16
# For a whole body to arrive, and for a whole reply to be read. A client that takes longer holds memory.
READ_TIMEOUT_S, WRITE_TIMEOUT_S = 30, 120
# The first line of a request and its headers. Reading more takes tens of milliseconds, whose they ever are.
MAX_HEAD_BYTES = 32_768
# HAProxy's buffer: a request that fits is held until it is whole, so that it can be sent again.
PROXY_BUFFER_BYTES = 262_144
# Of the kernel, for what a client has not read yet. It would let each grow to megabytes.
UNREAD_BYTES = 131_072
# No field is read from it, and looking for one in a longer string would take longer than planning does.
MAX_QUERY_STRING_BYTES = 4096
# Documents that one feedback names, and bytes of its body, which those fill to a third. To describe what is wrong in
# megabytes of labels would take seconds.
MAX_FEEDBACK_DOCUMENTS = 1000
MAX_FEEDBACK_BYTES = 100_000
