"""Malformed messages for a queue in Redis: each breaks another assumption of who reads it."""

import base64
import copy
import json
import pickle
from typing import Any

HUGE = 10**30


def malformed(message: dict[str, Any]) -> dict[str, bytes]:
    """Return 100 malformed variants of a valid message, each with a name."""
    valid = json.dumps(message).encode()
    found: dict[str, bytes] = {
        "empty": b"",
        "no JSON": b"not JSON",
        "cut off": valid[:-1],
        "twice": valid * 2,
        "not UTF-8": b"\xff\xfe\x00",
        "a byte order mark": b"\xef\xbb\xbf" + valid,
        "pickled": pickle.dumps(message),
        "nested too deeply": b"[" * 100_000,
        "null": b"null",
        "a number": b"42",
        "a huge number": b"9" * 5_000,
        "not a number": b"NaN",
        "a text": b'"text"',
        "a list": b"[]",
        "an object": b"{}",
    }

    def put(path: str, *values: Any) -> None:
        """Add variants with a value replaced; without values, one that lacks it."""
        *parents, name = path.split(".")
        for value in values or (...,):
            variant = copy.deepcopy(message)
            target = variant
            for parent in parents:
                target = target[parent]
            target[name] = value
            if value is ...:
                del target[name]
            found[f"{path} {'missing' if value is ... else repr(value)[:30]}"] = json.dumps(
                variant
            ).encode()

    for name in ("headers", "properties"):
        put(name)
        put(name, None, 42, "text", [], {})
    put("body")
    put("body", None, 42, [], "", "%%%", "abc")
    bodies: list[Any] = [
        None,
        42,
        [],
        [[], {}],
        [[], "text", {}],
        [[], [], {}],
        [{}, {}, {}],
        [[], {"key": None}, None],
        [[], {"other": 1}, {}],
        [["a", "b", "c"], {"key": "a"}, {}],
        [[], {"key": "a"}, {"callbacks": 42, "errbacks": 42, "chain": 42, "chord": 42}],
    ]
    texts = [json.dumps(body).encode() for body in bodies]
    texts += [b"not JSON", b"\xff", pickle.dumps([[], {}, {}])]
    for text in texts:
        put("body", base64.b64encode(text).decode())
    put("content-type")
    put("content-type", None, 42, "text/plain", "application/unknown")
    put("content-type", "application/x-python-serialize")
    put("content-encoding", None, 42, "unknown", "utf-16")
    for name in ("task", "id", "timelimit", "job_series"):
        put(f"headers.{name}")
    put("headers.task", None, 42, "no.such.task")
    put("headers.id", None, 42, [], "", "no such job", "x" * 5_000, "\0")
    put("headers.job_series", None, "0", "text", -1, HUGE, 1.5, [], {})
    put("headers.retries", None, "text", -1, HUGE)
    put("headers.eta", "text")
    put("headers.expires", [], "text")
    put("headers.timelimit", None, [1], "text", [HUGE, HUGE])
    put("headers.stamped_headers", 42)
    put("headers.compression", "zlib")
    put("properties.delivery_tag")
    put("properties.delivery_tag", None, 42, {})
    put("properties.delivery_info", None, 42)
    put("properties.body_encoding", "unknown")
    assert len(found) == 100
    return found
