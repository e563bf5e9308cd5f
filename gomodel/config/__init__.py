"""What the operator said: every variable, how it is read, and the frozen configuration that comes of it."""
