"""Who may ask, and how much: the keys, their rights and their limits."""
