"""What every component promises, as plain functions: for `modbridge test-plugin` and for a plugin's own tests.

from modbridge.testing import conformance
test_conformance = conformance("my_plugin")
"""

from modbridge.testing.conformance.door import conformance
from modbridge.testing.conformance.outcome import Check, Failed, NotForIt, NotRun, Outcome
from modbridge.testing.conformance.runner import CHECKS, cases, find_trial, run

__all__ = ["CHECKS", "Check", "Failed", "NotForIt", "NotRun", "Outcome", "cases", "conformance", "find_trial", "run"]
