"""The spec of each job of a plan, as canonical JSON: what its rule passes to it."""

from __future__ import annotations

import json

from husai.config.data_sets import confirmation_pool, resolved_data_sets
from husai.config.draws import drawn_from, resolved_seeds
from husai.config.external import GateProbe
from husai.planning import specs
from husai.planning.plan import Plan
from husai.provenance import canonical_json
from husai.recipe import RANDOM


class SpecBuilder:
    """Builds the spec of every job from the configuration."""

    def __init__(self, plan: Plan):
        self.plan, self.config = plan, plan.config
        self.gate_k = plan.config.external.probing.gate_k
        a, b = resolved_data_sets(plan.config)
        sets = plan.config.external.datasets
        rest = {"ood": list(sets.ood), "max_rows": sets.max_rows}
        self.sets = {"selection": a, "confirmation": b, **rest}

    def _corpus(self) -> specs.CorpusSpec:
        kept_clear_of = self.sets | {"confirmation": confirmation_pool(self.config)}
        return specs.CorpusSpec(**dict(self.config.corpus), **kept_clear_of)

    def subject(self, name: str) -> str:
        """Making of a subject."""
        section = self.config.subjects[name.removesuffix(RANDOM)]
        corpus = {"corpus": self._corpus()} if section.kind in specs.READS_TEXT else {}
        about = {"name": name, "randomise": name.endswith(RANDOM)}
        if section.kind != "rows":  # a model has all its hooks: more of them change nothing
            about["hooks"] = []
        return specs.SUBJECT_SPECS[section.kind](**dict(section) | corpus | about).text()

    def activations(self, name: str) -> str:
        """Rows stored of a subject."""
        base = name.removesuffix(RANDOM)
        section = self.config.subjects[base]
        read = section.kind in specs.READS_TEXT
        return specs.ActivationsSpec(
            name=name,
            seed=section.seed,
            rows=self.config.activations.get(base),
            corpus=self._corpus() if read else None,
        ).text()

    def probes(self, subject: str) -> str:
        """Which rows get probe activations; of the randomised subject those of the confirmation."""
        stored = self.config.activations.get(self.config.external.subject)
        others = {"selection": [], "ood": []} if subject.endswith(RANDOM) else {}
        return specs.ProbesSpec(
            **{**self.sets, **others},
            hooks=self.plan.pool_hooks(),
            pooling=self.config.external.probing.pooling,
            **({"dtype": stored.dtype} if stored else {}),
        ).text()

    def train(self, subject: str, recipe_id: str) -> str:
        """A recipe and its seeds."""
        trained = self.plan.get(subject, recipe_id)
        return specs.TrainSpec(
            recipe=trained.recipe, seeds=trained.seeds, may_fail=self.plan.may_fail(trained.recipe)
        ).text()

    def bring(self, recipe_id: str) -> str:
        """Checkpoints of a brought ensemble, their seeds, and how its controls are trained here."""
        b = next(b for b in self.plan.brought if b.id == recipe_id)
        return specs.BringSpec(
            name=b.name,
            subject=b.subject,
            hook_name=b.hook_name,
            members=[str(p) for p in b.members],
            seeds=list(b.seeds),
            training=self.config.training[b.subject],
        ).text()

    def planted(self) -> str:
        """Recovery of planted features."""
        b = self.config.baseline
        return specs.PlantedSpec(**dict(b.planted), seeds=b.seeds).text()

    def probing(self, split: str = "selection", role: str = "candidate") -> str:
        """Sparse probing of one split; of the candidate's controls, which no gate compares with a
        dense probe, at the gate's k alone."""
        found = dict(self.config.external.probing)
        engine, gate_k = found.pop("confirmation_engine"), found["gate_k"]
        if role != "candidate":
            found["dense_k"] = gate_k
        if split == "confirmation":
            found |= {"engine": engine, "ks": sorted({gate_k, found["dense_k"]})}
        return specs.ProbingSpec(
            **found, split=split, datasets=self.sets[split], max_rows=self.sets["max_rows"]
        ).text()

    def cebench(self, split: str = "selection") -> str:
        """CE-Bench of an SAE on one half of the pairs."""
        section = self.config.external.cebench
        return specs.CEBenchSpec(**dict(section), **self.sets, split=split).text()

    def faithfulness(self, split: str = "selection") -> str:
        """Splicing of an SAE into the subject."""
        section = self.config.external.faithfulness
        return specs.FaithfulnessSpec(**dict(section), split=split).text()

    def pairs(self) -> str:
        """Contrastive pairs."""
        section, hooks = self.config.external.cebench, self.plan.pool_hooks()
        return specs.PairsSpec(**dict(section), **self.sets, hooks=hooks).text()

    def baseline(self) -> str:
        """The baseline's table."""
        return specs.BaselineSpec(baseline=self.config.baseline).text()

    def ablations(self) -> str:
        """The ablations' table."""
        return specs.AblationsSpec(ablations=self.config.ablations).text()

    def calibration(self) -> str:
        """The calibration's choice and table."""
        return specs.CalibrationSpec(calibration=self.config.calibration).text()

    def consistency(self) -> str:
        """The consistency table."""
        section = self.config.consistency
        probed = self.config.external.subject in section.subjects
        k = self.gate_k if probed else None
        return specs.ConsistencySpec(consistency=section, gate_k=k).text()

    def frontier(self) -> str:
        """The frontier table."""
        return specs.FrontierSpec(frontier=self.config.frontier, gate_k=self.gate_k).text()

    def scaling(self) -> str:
        """The scaling table."""
        return specs.ScalingSpec(scaling=self.config.scaling, gate_k=self.gate_k).text()

    def confirmation(self) -> str:
        """Seeds of the confirmation, its data, and how its roles are trained."""
        c = self.config
        subjects = {c.external.subject, c.stress.transcoder_subject}
        seeds, stress_seeds = resolved_seeds(c)
        return specs.ConfirmationSpec(
            **dict(c.confirmation) | {"seeds": seeds},
            stress=dict(c.stress) | {"seeds": stress_seeds},
            training={name: c.training[name] for name in subjects},
            selection_seeds=sorted({*c.frontier.seeds, *c.scaling.seeds}),
            datasets=self.sets["confirmation"],
            gate_k=self.gate_k,
            measured={
                "stability": {"split": "confirmation"},
                "random_model": {"stress": "random_model"},
                "transcoder": {"stress": "transcoder"},
                "saebench": json.loads(self.probing("confirmation")),
                "cebench": json.loads(self.cebench("confirmation")),
                "faithfulness": json.loads(self.faithfulness("confirmation")),
                "ood": json.loads(self.ood()),
            },
            drawn=drawn_from(c),
            brought={
                b.id: specs.FreshMembers(
                    members=[str(p) for p in b.fresh], seeds=list(b.fresh_seeds)
                )
                for b in self.plan.brought
            },
        ).text()

    def ood(self) -> str:
        """Out-of-domain probing of the candidate."""
        probing = dict(self.config.external.probing)
        read = {name: probing[name] for name in GateProbe.model_fields}
        return specs.OODSpec(**self.sets, **read).text()

    def selection(self) -> str:
        """How the candidate is chosen."""
        return specs.SelectionSpec(**dict(self.config.selection)).text()

    def gate_selftest(self) -> str:
        """Size of the simulation."""
        return specs.SelfTestSpec(null_campaigns=self.config.gate.null_campaigns).text()

    def gate_assert(self) -> str:
        """Whether a failed gate ends the run with an error."""
        return specs.AssertSpec(fail_on_gate_fail=self.config.gate.fail_on_gate_fail).text()

    def dag(self) -> str:
        """Names of everything the workflow trains or imports: what the picture shows."""
        brought = [f"{b.subject}/{b.id}" for b in self.plan.brought]
        return canonical_json(sorted([f"{s}/{r}" for s, r in self.plan.trained] + brought))
