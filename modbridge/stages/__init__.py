"""The stages of a run, one readable file each. Every stage's result is kept under a key of what decides it."""

STAGES = ("fit_encoder", "embed", "fit_bridge", "fit_decoder", "tune", "generate", "score", "report")

# What the cache keeps: the stages above and the steps inside them, each a folder of its own.
KEPT = (
    "fit_objective",
    "fit_encoder",
    "conditioning",
    "embed",
    "fit_prior",
    "fit_bridge",
    "cross",
    "fit_decoder",
    "tune",
    "generate",
    "score",
    "answers",
    "measure",
    "gap",
    "probe",
)
