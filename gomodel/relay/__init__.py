"""One request to a server and its answer back: what may be tried again, every byte, an honest end."""
