"""The stages of a run, one readable file each. Every stage's result is kept under a key of what decides it."""

STAGES = ("fit_encoder", "embed", "fit_bridge", "fit_decoder", "generate", "score", "report")
