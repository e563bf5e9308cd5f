"""`gomodel doctor`: the same requests directly to an instance and through what stands before it, and what differs."""
