"""Rules of HTTP/1.1 as pure functions: header fields, framing, addresses in answers. Imports no aiohttp."""
