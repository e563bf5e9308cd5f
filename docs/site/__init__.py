"""What makes the documentation site and those of its pages that are made of the code."""
