"""`gomodel new-key NAME`: a key that nobody had before, and the entry of the keys file that lets it in.

The key is printed once and kept nowhere; the entry has its SHA-256. A key has 256 random bits, so that a plain hash of
it is as good as a slow one.
"""

import secrets
import sys
from hashlib import sha256

# What finds a key that got where it should not be: scanners of repositories look for beginnings.
_PREFIX = "sk-gomodel-"


def new_key(name: str) -> None:
    """Print a new key of `name` to standard error and its entry to standard output, which can go to the keys file."""
    key = _PREFIX + secrets.token_urlsafe(32)
    print(f"The key of {name}, which is shown this once:\n\n  {key}\n", file=sys.stderr)
    print("Its entry in the file that GOMODEL_KEYS_FILE names:\n", file=sys.stderr)
    print(entry(name, key), flush=True)


def entry(name: str, key: str) -> str:
    """The entry that lets `key` in; TOML wants quotes around some names, and takes them around all."""
    return f'[keys."{name}"]\nsha256 = "{sha256(key.encode()).hexdigest()}"'
