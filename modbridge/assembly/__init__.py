"""From config to pipeline: the plan (checked, no weights) and the built graph."""
