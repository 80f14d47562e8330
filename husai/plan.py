"""From configuration to work: which recipes are trained with which seeds, and the config slice each job depends on.

A recipe that two stages share is trained once, with the union of their seeds. Every slice is canonical JSON, so that
a job reruns exactly when something it depends on changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property

from husai.config import Config
from husai.config.checks import resolved_data_sets
from husai.errors import HusaiError
from husai.provenance import canonical_json
from husai.recipe import CALIBRATED, Recipe

RANDOM = "-random"


@dataclass
class Trained:
    """A recipe with every seed some stage asks for."""

    recipe: Recipe
    seeds: list[int] = field(default_factory=list)

    def add(self, seeds: Iterable[int]) -> None:
        """Add seeds not yet asked for, keeping their order of appearance."""
        self.seeds += [s for s in seeds if s not in self.seeds]


class Plan:
    """Everything the workflow knows before it runs."""

    def __init__(self, config: Config):
        self.config = config
        self.trained: dict[tuple[str, str], Trained] = {}
        for recipes, seeds in (self.baseline, self.ablations, self.calibration_search, self.calibration_retrain, self.l0_matched):
            self._train(recipes, seeds)
        self._train(self.consistency, config.consistency.seeds)
        self._train(self.frontier, config.frontier.seeds)
        self._train(self.scaling, config.scaling.seeds)

    def _train(self, recipes: Iterable[Recipe], seeds: Iterable[int]) -> None:
        for recipe in recipes:
            key = (recipe.subject, recipe.id)
            known = self.trained.setdefault(key, Trained(recipe))
            if known.recipe.hash != recipe.hash:
                raise HusaiError(
                    f"config: two different recipes would share the name results/saes/{recipe.subject}/{recipe.id}; make their settings equal"
                )
            known.add(seeds)

    def recipe(self, subject: str, architecture: str, d_sae: int, **fields) -> Recipe:
        """A recipe of ``subject`` with its training defaults; the id's tag names a hook other than the default."""
        section = self.config.subjects[subject.removesuffix(RANDOM)]
        training = self.config.training[subject.removesuffix(RANDOM)].model_dump()
        hook = fields.pop("hook_name", section.hooks[0])
        tag = [] if hook == section.hooks[0] else [hook.replace("hook_", "")]
        tag += [fields.pop("tag")] if fields.get("tag") else []
        values = {**training, **fields, "hook_name": hook, "tag": "-".join(tag)}
        return Recipe(subject=subject, architecture=architecture, d_sae=d_sae, **values)

    def sized(self, subject: str, architecture: str, d_sae: int, l0: int | str, **fields) -> Recipe:
        """A recipe at one L0 whatever its architecture: k for the TopK family, an L0 target for the others."""
        sparsity = {"k": l0} if architecture in ("topk", "batchtopk") else {"l0_target": l0 if l0 == CALIBRATED else float(l0)}
        return self.recipe(subject, architecture, d_sae, **sparsity, **fields)

    @cached_property
    def baseline(self) -> tuple[list[Recipe], list[int]]:
        """The baseline TopK of every subject and its frozen-decoder control."""
        b, out = self.config.baseline, []
        for subject in b.subjects:
            sizes = {"d_sae": b.at("d_sae", subject), "k": b.at("k", subject)}
            out += [self.recipe(subject, "topk", **sizes), self.recipe(subject, "topk", **sizes, frozen_decoder=True)]
        return out, b.seeds

    @cached_property
    def ablations(self) -> tuple[list[Recipe], list[int]]:
        """The k grid and the d_sae grid of every subject."""
        a, out = self.config.ablations, []
        for subject in a.subjects:
            grid = [(a.at("k_at_d_sae", subject), k) for k in a.k] + [(d, a.d_sae_at_k) for d in a.d_sae]
            out += [self.recipe(subject, "topk", d, k=k) for d, k in dict.fromkeys(grid)]
        return out, a.seeds

    @cached_property
    def calibration_search(self) -> tuple[list[Recipe], list[int]]:
        """One recipe per candidate k."""
        c = self.config.calibration
        return [self.recipe(c.subject, "topk", c.d_sae, k=k) for k in c.k], c.seeds

    @cached_property
    def calibration_retrain(self) -> tuple[list[Recipe], list[int]]:
        """The chosen k and its control at the default k, both on fresh seeds."""
        c = self.config.calibration
        chosen = self.recipe(c.subject, "topk", c.d_sae, k=CALIBRATED)
        return [chosen, self.recipe(c.subject, "topk", c.d_sae, k=c.default_k, tag="control")], c.retrain_seeds

    @cached_property
    def l0_matched(self) -> tuple[list[Recipe], list[int]]:
        """Other architectures at the L0 of the chosen k."""
        c = self.config.calibration
        return [self.sized(c.subject, a, c.d_sae, CALIBRATED) for a in c.match_architectures], c.seeds

    @cached_property
    def consistency(self) -> list[Recipe]:
        """One recipe per subject and weight; weight 0 is the plain control and holds the reference."""
        c, out = self.config.consistency, []
        for subject in c.subjects:
            for weight in dict.fromkeys([0.0, *c.weights]):
                fields = {"consistency_weight": float(weight), "consistency_interval": c.interval, "reference_seed": c.seeds[0]}
                out.append(self.recipe(subject, "topk", c.at("d_sae", subject), k=c.at("k", subject), **(fields if weight else {})))
        return out

    @cached_property
    def frontier(self) -> list[Recipe]:
        """Every architecture at one L0, and the frozen-decoder TopK at the same width and L0."""
        f = self.config.frontier
        subject = self.config.external.subject
        recipes = [self.sized(subject, a, f.d_sae, f.k) for a in f.architectures]
        return [*recipes, self.sized(subject, "topk", f.d_sae, f.k, frozen_decoder=True)]

    @cached_property
    def scaling(self) -> list[Recipe]:
        """Token budget x hook x d_sae, and a frozen-decoder control per hook and d_sae."""
        s = self.config.scaling
        subject = self.config.external.subject
        out = []
        for hook in s.hooks:
            for d_sae in s.d_sae:
                out += [self.sized(subject, s.architecture, d_sae, s.k, n_rows=n, hook_name=hook) for n in s.token_budgets]
                out.append(self.sized(subject, "topk", d_sae, s.k, hook_name=hook, frozen_decoder=True))
        return out

    def frozen_control(self, recipe: Recipe) -> Recipe:
        """The frozen-decoder TopK that ``recipe`` is compared with: same subject, hook, width and L0."""
        l0 = recipe.k if recipe.k is not None else recipe.l0_target
        return self.sized(
            recipe.subject, "topk", recipe.d_sae, int(l0) if l0 != CALIBRATED else l0, hook_name=recipe.hook_name, frozen_decoder=True
        )

    def get(self, subject: str, recipe_id: str) -> Trained:
        """The trained recipe of that name."""
        try:
            return self.trained[subject, recipe_id]
        except KeyError:
            from husai.errors import nearest

            names = [r for s, r in self.trained if s == subject]
            raise HusaiError(
                f"results/saes/{subject}/{recipe_id}: the configuration trains no such recipe{nearest(recipe_id, names)}"
            ) from None

    def external_recipes(self) -> list[Trained]:
        """Every recipe that external benchmarks measure."""
        recipes = {r.id: r for r in (*self.frontier, *self.scaling)}
        return [self.trained[self.config.external.subject, i] for i in recipes]

    def pool_hooks(self) -> list[str]:
        """Hooks the candidate may come from."""
        hooks = [r.hook_name for r in (*self.frontier, *self.scaling)]
        return list(dict.fromkeys(hooks))

    def pool_is_calibrated(self) -> bool:
        """Whether a candidate may wait for the calibration stage."""
        return any(r.needs_calibration for r in (*self.frontier, *self.scaling))

    def subject_names(self) -> list[str]:
        """Configured subjects and the randomised copy of the external one."""
        return [*self.config.subjects, self.config.external.subject + RANDOM]


def _dump(value) -> str:
    return canonical_json(value)


class Slices:
    """The part of the configuration each job depends on, as canonical JSON: the only parameter of its rule."""

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
        return {**self.config.corpus.model_dump(), "selection": a, "confirmation": b, "ood": list(sets.ood), "max_rows": sets.max_rows}

    def activations(self, name: str) -> str:
        """Rows stored of a subject."""
        base = name.removesuffix(RANDOM)
        rows = self.config.activations[base].model_dump() if base in self.config.activations else {}
        extra = {} if self.config.subjects[base].kind == "modular" else {"corpus": self.corpus()}
        return _dump({"name": name, **rows, **extra, "seed": self.config.subjects[base].seed})

    def train(self, subject: str, recipe_id: str) -> str:
        """A recipe and its seeds."""
        trained = self.plan.get(subject, recipe_id)
        return _dump({"recipe": trained.recipe.to_dict(), "seeds": trained.seeds})

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
        return _dump({**probing, "split": split, "datasets": sets[split], "max_rows": sets["max_rows"]})

    def cebench(self) -> str:
        """Contrastive pairs."""
        return _dump({**self.config.external.cebench.model_dump(), **self.data_sets(), "hooks": self.plan.pool_hooks()})

    def stage(self, name: str) -> str:
        """A summary stage's own section."""
        section = getattr(self.config, name).model_dump()
        probed = name in ("frontier", "scaling") or (
            name == "consistency" and self.config.external.subject in self.config.consistency.subjects
        )
        extra = {"gate_k": self.config.external.probing.gate_k} if probed else {}
        return _dump({name: section, **extra})

    def confirmation(self) -> str:
        """Seeds of the confirmation, its data, and how its roles are trained."""
        c = self.config
        subjects = sorted({c.external.subject, c.stress.transcoder_subject})
        return _dump(
            {
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
        """Names of everything the workflow trains: what the picture shows."""
        return _dump(sorted(f"{s}/{r}" for s, r in self.plan.trained))


def recipe_json(recipe: Recipe) -> str:
    """Canonical JSON of a recipe."""
    return _dump(asdict(recipe))
