"""What the operating system gives: sockets, TLS, signals, file descriptors, systemd."""
