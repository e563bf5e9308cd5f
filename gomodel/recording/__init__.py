"""Recordings: what passed between clients and a server, written down, answered again, and sent again."""
