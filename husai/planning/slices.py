"""The part of the configuration that each job depends on, as canonical JSON: a job reruns exactly
when its slice changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from husai.config.checks import resolved_data_sets
from husai.provenance import canonical_json
from husai.recipe import RANDOM

if TYPE_CHECKING:
    from husai.planning.plan import Plan


def _dump(value) -> str:
    return canonical_json(value)


class Slices:
    """The part of the configuration each job depends on, as canonical JSON: the only parameter of
    its rule.
    """

    def __init__(self, plan: Plan):
        self.plan, self.config = plan, plan.config

    def subject(self, name: str) -> str:
        """Training of a subject."""
        base = name.removesuffix(RANDOM)
        spec = self.config.subjects[base].model_dump()
        spec.pop("hooks")
        extra = {} if spec["kind"] == "modular" else {"corpus": self.corpus()}
        return _dump({**spec, **extra, "name": name, "randomise": name.endswith(RANDOM)})

    def corpus(self) -> dict:
        """Which text is evaluation text, and how the rest is cut."""
        a, b = resolved_data_sets(self.config)
        sets = self.config.external.datasets
        return {
            **self.config.corpus.model_dump(),
            "selection": a,
            "confirmation": b,
            "ood": list(sets.ood),
            "max_rows": sets.max_rows,
        }

    def activations(self, name: str) -> str:
        """Rows stored of a subject."""
        base = name.removesuffix(RANDOM)
        rows = self.config.activations[base].model_dump() if base in self.config.activations else {}
        extra = {} if self.config.subjects[base].kind == "modular" else {"corpus": self.corpus()}
        return _dump({"name": name, **rows, **extra, "seed": self.config.subjects[base].seed})

    def train(self, subject: str, recipe_id: str) -> str:
        """A recipe and its seeds."""
        trained = self.plan.get(subject, recipe_id)
        may_fail = {"may_fail": True} if self.plan.may_fail(trained.recipe) else {}
        return _dump({"recipe": trained.recipe.to_dict(), "seeds": trained.seeds, **may_fail})

    def bring(self, recipe_id: str) -> str:
        """Checkpoints of a brought ensemble, their seeds, and how its controls are trained here."""
        b = next(b for b in self.plan.brought if b.id == recipe_id)
        members = {
            "name": b.name,
            "subject": b.subject,
            "hook_name": b.hook_name,
            "members": [str(p) for p in b.members],
        }
        return _dump(
            {
                **members,
                "seeds": list(b.seeds),
                "training": self.config.training[b.subject].model_dump(),
            }
        )

    def data_sets(self) -> dict:
        """Data sets of selection, confirmation and OOD."""
        a, b = resolved_data_sets(self.config)
        sets = self.config.external.datasets
        return {"selection": a, "confirmation": b, "ood": list(sets.ood), "max_rows": sets.max_rows}

    def planted(self) -> str:
        """Recovery of planted features."""
        b = self.config.baseline
        return _dump({**b.planted.model_dump(), "seeds": list(b.seeds)})

    def probes(self) -> str:
        """Which rows get probe activations."""
        return _dump({**self.data_sets(), "hooks": self.plan.pool_hooks()})

    def probing(self, split: str = "selection") -> str:
        """Sparse probing of one split."""
        probing = self.config.external.probing.model_dump()
        engine = probing.pop("confirmation_engine")
        if split == "confirmation":
            probing |= {"engine": engine, "ks": [probing["gate_k"]]}
        sets = self.data_sets()
        return _dump(
            {**probing, "split": split, "datasets": sets[split], "max_rows": sets["max_rows"]}
        )

    def cebench(self) -> str:
        """Contrastive pairs."""
        return _dump(
            {
                **self.config.external.cebench.model_dump(),
                **self.data_sets(),
                "hooks": self.plan.pool_hooks(),
            }
        )

    def stage(self, name: str) -> str:
        """A summary stage's own section."""
        section = getattr(self.config, name).model_dump()
        probed = name in ("frontier", "scaling") or (
            name == "consistency"
            and self.config.external.subject in self.config.consistency.subjects
        )
        extra = {"gate_k": self.config.external.probing.gate_k} if probed else {}
        return _dump({name: section, **extra})

    def confirmation(self) -> str:
        """Seeds of the confirmation, its data, and how its roles are trained."""
        c = self.config
        subjects = sorted({c.external.subject, c.stress.transcoder_subject})
        fresh = {
            b.id: {"members": [str(p) for p in b.fresh], "seeds": list(b.fresh_seeds)}
            for b in self.plan.brought
        }
        return _dump(
            {
                **({"brought": fresh} if fresh else {}),
                **c.confirmation.model_dump(),
                "stress": c.stress.model_dump(),
                "training": {name: c.training[name].model_dump() for name in subjects},
                "selection_seeds": sorted({*c.frontier.seeds, *c.scaling.seeds}),
                "datasets": self.data_sets()["confirmation"],
                "gate_k": c.external.probing.gate_k,
            }
        )

    def ood(self) -> str:
        """Out-of-domain probing of the candidate."""
        probing = self.config.external.probing
        return _dump({**self.data_sets(), "gate_k": probing.gate_k, "penalty": probing.penalty})

    def selection(self) -> str:
        """How the candidate is chosen."""
        return _dump(self.config.selection.model_dump())

    def gate_selftest(self) -> str:
        """Size of the simulation."""
        return _dump({"null_campaigns": self.config.gate.null_campaigns})

    def gate_assert(self) -> str:
        """Whether a failed gate ends the run with an error."""
        return _dump({"fail_on_gate_fail": self.config.gate.fail_on_gate_fail})

    def dag(self) -> str:
        """Names of everything the workflow trains or imports: what the picture shows."""
        return _dump(
            sorted(
                [
                    *(f"{s}/{r}" for s, r in self.plan.trained),
                    *(f"{b.subject}/{b.id}" for b in self.plan.brought),
                ]
            )
        )
