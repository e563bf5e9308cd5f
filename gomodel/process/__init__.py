"""From the first line to the exit status: start, workers and their supervisor, reload, drain."""
