"""What a request's address means, without any I/O: targets, routes, passthrough."""
