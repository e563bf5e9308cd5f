"""What is known of requests: records, counters, the access line, log lines."""
