"""What lies on disk: artefacts, embedding shards, checkpoints, cache keys, run folders."""
