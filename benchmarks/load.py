"""An HTTP client that costs little: so many requests at once over connections that stay open.

``python load.py PORT CLIENTS SECONDS METHOD PATH [TOKEN]`` prints JSON: requests per second, status
codes, and the times of ``/health/live`` meanwhile, in milliseconds.
"""

import asyncio
import json
import sys
import time
from collections import Counter


async def ask(reader, writer, request):
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12])


def request(method, path, token=None):
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{authorization}\r\n"
    ).encode()


async def main(port, clients, seconds, method, path, token=None):
    port, clients, seconds = int(port), int(clients), float(seconds)
    codes, times, live = Counter(), [], []
    end = time.monotonic() + seconds

    async def client():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        message = request(method, path, token)
        while time.monotonic() < end:
            begin = time.monotonic()
            codes[await ask(reader, writer, message)] += 1
            times.append(time.monotonic() - begin)
        writer.close()

    async def look():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        message = request("GET", "/health/live")
        while time.monotonic() < end:
            begin = time.monotonic()
            await ask(reader, writer, message)
            live.append(time.monotonic() - begin)
            await asyncio.sleep(0.01)
        writer.close()

    begin = time.monotonic()
    await asyncio.gather(look(), *(client() for _ in range(clients)))
    took = time.monotonic() - begin

    def quantile(values, part):
        return sorted(values)[int(len(values) * part)] * 1000 if values else 0

    print(
        json.dumps(
            {
                "rate": sum(codes.values()) / took,
                "codes": codes,
                "p50": quantile(times, 0.5),
                "p99": quantile(times, 0.99),
                "live_p50": quantile(live, 0.5),
                "live_p99": quantile(live, 0.99),
            }
        )
    )


asyncio.run(main(*sys.argv[1:]))
