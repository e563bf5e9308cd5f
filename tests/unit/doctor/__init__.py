"""Rules of the doctor: what is seen in bytes, and whom it accuses."""
