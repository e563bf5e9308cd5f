"""Which server takes a request: the table of instances, their model lists, stored responses, counts of the host."""
