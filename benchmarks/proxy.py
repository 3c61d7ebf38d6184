"""A TCP proxy that delays what it passes on. ``python proxy.py PORT TARGET_PORT MILLISECONDS``,
the whole trip there and back."""

import asyncio
import sys

port, target, milliseconds = map(int, sys.argv[1:])


async def pass_on(reader, writer):
    loop = asyncio.get_running_loop()
    while data := await reader.read(65536):
        loop.call_later(milliseconds / 2000, writer.write, data)
    loop.call_later(milliseconds / 2000, writer.close)


async def serve(reader, writer):
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", target)
    await asyncio.gather(
        pass_on(reader, there_writer), pass_on(there_reader, writer), return_exceptions=True
    )


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


asyncio.run(main())
