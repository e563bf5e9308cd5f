"""Rules of recordings: messages, credentials, lines, which answer fits."""
