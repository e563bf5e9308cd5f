"""The subcommands of the command line: a file for each, with its options, its help and what it does."""
