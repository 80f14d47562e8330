"""The proof that the gate can say no (``husai gate selftest``)."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path


def run(args: Namespace) -> None:
    """Judge SAEs that must be rejected, one that must be accepted, and simulated campaigns; certify
    planted latents."""
    from husai.compute import resolve_device, use_threads
    from husai.gate.selftest.selftest import selftest_job
    from husai.passport.planted import self_test
    from husai.planning.specs import SelfTestSpec, read_spec

    use_threads(args.threads)
    out = args.out or Path("results/gate/selftest.json")
    spec = read_spec(SelfTestSpec, args.spec)
    device = str(resolve_device(args.device))
    beside = {"certificates": self_test()}
    selftest_job(spec.values(), out, beside=beside, device=device, fail=args.fail_on_gate_fail)
