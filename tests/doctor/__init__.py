"""Trials of the doctor that take real time: nginx with and without what breaks streams, and proxies that hold back."""
