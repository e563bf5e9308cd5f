"""The client's side: its connection, the heads and bodies of its requests, the limit of connections."""
