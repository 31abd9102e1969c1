"""The paper, one file a step: S, principal neurons, members, region. Not public."""
