"""gomodel in front of a real vLLM server on a CPU: what no simulation can vouch for."""
