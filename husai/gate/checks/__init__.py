"""Checks on the evidence of a decision as a whole, by the name that a policy gives them. Each gets
the records, what could not be read, and the candidate's entries in the confirmation ledger; empty
text means that it holds.
"""

from husai.gate.checks.coherent import one_config, one_version, verified
from husai.gate.checks.derived import derived
from husai.gate.checks.one_attempt import one_attempt

CHECKS = {
    "one_version": one_version,
    "one_config": one_config,
    "verified": verified,
    "derived": derived,
    "one_attempt": one_attempt,
}
