"""The parts behind tests/scripted.py, which is what tests import."""
