"""An HTTP client that costs little: so many requests at once over connections that stay open.

``python load.py PORT CLIENTS SECONDS METHOD PATH TOKENS`` prints JSON: requests per second, status
codes (503 without Retry-After as ``503!``), and milliseconds of these requests and of requests to
``/health/live`` beside them. The clients take the tokens, separated by commas, in turn.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from statistics import quantiles


async def main(port, clients, seconds, method, path, tokens):
    codes, times, live = Counter(), [], []
    begin = time.monotonic()
    end = begin + float(seconds)

    async def client(method, path, token, milliseconds, codes, pause=0.0):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Length: 0"]
        lines += [f"Authorization: Bearer {token}"] if token else []
        request = "\r\n".join([*lines, "", ""]).encode()
        while (start := time.monotonic()) < end:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            milliseconds.append((time.monotonic() - start) * 1000)
            code = head[9:12].decode()
            codes[code + "!" * (code == "503" and b"retry-after:" not in head)] += 1
            await asyncio.sleep(pause)
        writer.close()

    names = tokens.split(",")
    loads = [
        client(method, path, names[number % len(names)], times, codes)
        for number in range(int(clients))
    ]
    beside = client("GET", "/health/live", "", live, Counter(), pause=0.02)
    await asyncio.gather(beside, *loads)
    result = {"rate": len(times) / (time.monotonic() - begin), "codes": codes}
    for name, values in (("", times), ("live_", live)):
        cuts = quantiles(values * 2, n=100)  # Twice: one value alone has no quantiles.
        result |= {f"{name}p50": cuts[49], f"{name}p99": cuts[98]}
    print(json.dumps(result))


asyncio.run(main(*sys.argv[1:]))
