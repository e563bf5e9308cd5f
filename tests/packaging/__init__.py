"""The distributions: sdist and wheel, built twice and looked at: `make dist`."""
