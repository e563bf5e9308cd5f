"""The commands and examples of the documents, run as a reader would: `make test-docs`."""
