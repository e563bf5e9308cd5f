"""Files and batches in OpenAI's shape: a process of its own, the batcher, that keeps them and runs their lines.

Imported by nobody unless GOMODEL_DATA_DIR is set, and by no process that serves.
"""
