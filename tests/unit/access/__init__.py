"""Rules of the keys and of what they may."""
