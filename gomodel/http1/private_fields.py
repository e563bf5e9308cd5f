"""The header fields that the gateway and the batcher say to each other; no client's ever reach either."""

# Towards the batcher: whose key a caller has. Towards the gateway: on whose behalf a line is run.
OWNER = "X-Gomodel-Owner"
# Towards the gateway: the batch that a line belongs to.
BATCH_OF = "X-Gomodel-Batch"
