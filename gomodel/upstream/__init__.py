"""One vLLM server: its connections, its health, its breaker, its model list."""
