"""The version, alone in a file so that packaging reads it without importing the daemon."""

VERSION = "0.1.0"
