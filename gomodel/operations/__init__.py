"""What operators may ask a running gateway: readiness, metrics, running requests, the status page."""
