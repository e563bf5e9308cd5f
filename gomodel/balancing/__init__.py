"""Which server takes a request: the table of instances, their model lists, and where stored responses lie."""
