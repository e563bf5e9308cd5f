"""Files and batches as whole processes: nothing lost and nothing twice, whatever is killed, full or away."""
