"""Coverage-guided fuzzing of what parses hostile bytes; opt-in, see `make fuzz`."""
