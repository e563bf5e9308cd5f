"""The status page in a real browser; not part of the default suite, see `make test-browser`."""
