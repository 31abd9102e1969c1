"""Run a model, record its layers and put it back. Not public."""
