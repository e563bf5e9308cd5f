"""What a client's bytes name: the model in a JSON body, in a form, in a realtime event. Pure."""
