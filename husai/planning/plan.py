"""From configuration to work: which recipes are trained with which seeds, and which SAEs are
brought.

A recipe that two stages share is trained once, with the union of their seeds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

from husai.config import Config
from husai.config.brought import Brought, bring
from husai.config.stages import STAGES
from husai.errors import HusaiError, nearest
from husai.planning.frontier import compared_recipes
from husai.recipe import CALIBRATED, FIXED_K, MATCHED, RANDOM, Recipe

CALIBRATION = ("calibration_search", "calibration_retrain", "l0_matched")
"""What :class:`Plan` holds of the calibration stage."""


@dataclass
class Trained:
    """A recipe with every seed some stage asks for."""

    recipe: Recipe
    seeds: list[int] = field(default_factory=list)

    @property
    def hook_name(self) -> str:
        """Hook point its activations come from."""
        return self.recipe.hook_name

    def add(self, seeds: Iterable[int]) -> None:
        """Add seeds not yet asked for, keeping their order of appearance."""
        self.seeds += [s for s in seeds if s not in self.seeds]


class Plan:
    """Everything the workflow knows before it runs."""

    def __init__(self, config: Config):
        self.config = config
        self.trained: dict[tuple[str, str], Trained] = {}
        for stage in set(STAGES) - set(config.stages):
            nothing = [] if stage in ("consistency", "frontier", "scaling") else ([], [])
            for name in CALIBRATION if stage == "calibration" else (stage,):
                vars(self)[name] = nothing  # what the cached properties below would hold
        for name in ("baseline", "ablations", *CALIBRATION):
            self._train(*getattr(self, name))
        self._train(self.consistency, config.consistency.seeds)
        for recipe in self.frontier:
            self._train([recipe], self._frontier_seeds(recipe))
        self._train(self.brought_controls, config.frontier.seeds)
        self._train(self.scaling, config.scaling.seeds)
        if "calibration" not in config.stages and self.pool_is_calibrated():
            raise HusaiError(
                "config: stages: frontier or scaling asks for 'calibrated', which the stage "
                "calibration finds; add it, or give numbers"
            )

    def _train(self, recipes: Iterable[Recipe], seeds: Iterable[int]) -> None:
        for recipe in recipes:
            key = (recipe.subject, recipe.id)
            known = self.trained.setdefault(key, Trained(recipe))
            if known.recipe.hash != recipe.hash:
                raise HusaiError(
                    "config: two different recipes would share the name "
                    f"results/saes/{recipe.subject}/{recipe.id}; make their settings equal"
                )
            known.add(seeds)

    def recipe(self, subject: str, architecture: str, d_sae: int, **fields) -> Recipe:
        """A recipe with the subject's training; the id's tag names a hook not the default."""
        section = self.config.subjects[subject.removesuffix(RANDOM)]
        training = self.config.training[subject.removesuffix(RANDOM)].model_dump()
        hook = fields.pop("hook_name", section.hooks[0])
        tag = [] if hook == section.hooks[0] else [hook.replace("hook_", "")]
        tag += list(filter(None, [fields.pop("tag", "")]))
        values = {**training, **fields, "hook_name": hook, "tag": "-".join(tag)}
        return Recipe(subject=subject, architecture=architecture, d_sae=d_sae, **values)

    def sized(self, subject: str, architecture: str, d_sae: int, l0: int | str, **fields) -> Recipe:
        """A recipe at one L0: k for the TopK family, an L0 target for the others."""
        sparsity = (
            {"k": l0}
            if architecture in FIXED_K
            else {"l0_target": l0 if l0 == CALIBRATED else float(l0)}
        )
        return self.recipe(subject, architecture, d_sae, **sparsity, **fields)

    @cached_property
    def baseline(self) -> tuple[list[Recipe], list[int]]:
        """The baseline TopK of every subject and its frozen-decoder control."""
        b, out = self.config.baseline, []
        for subject in b.subjects:
            sizes = {"d_sae": b.at("d_sae", subject), "k": b.at("k", subject)}
            out += [
                self.recipe(subject, "topk", **sizes, frozen_decoder=frozen)
                for frozen in (False, True)
            ]
        return out, b.seeds

    @cached_property
    def ablations(self) -> tuple[list[Recipe], list[int]]:
        """The k grid and the d_sae grid of every subject."""
        a, out = self.config.ablations, []
        for subject in a.subjects:
            grid = [(a.at("k_at_d_sae", subject), k) for k in a.k] + [
                (d, a.d_sae_at_k) for d in a.d_sae
            ]
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
        control = self.recipe(c.subject, "topk", c.d_sae, k=c.default_k, tag="control")
        return [chosen, control], c.retrain_seeds

    @cached_property
    def l0_matched(self) -> tuple[list[Recipe], list[int]]:
        """Other architectures at the L0 of the chosen k."""
        c = self.config.calibration
        matched = [self.sized(c.subject, a, c.d_sae, CALIBRATED) for a in c.match_architectures]
        return matched, c.seeds

    @cached_property
    def consistency(self) -> list[Recipe]:
        """One recipe per subject and weight; 0 is the plain control and holds the reference."""
        c, out = self.config.consistency, []
        aligned = {"consistency_interval": c.interval, "reference_seed": c.seeds[0]}
        for subject in c.subjects:
            d_sae, k = c.at("d_sae", subject), c.at("k", subject)
            for weight in dict.fromkeys([0.0, *map(float, c.weights)]):
                fields = {"consistency_weight": weight, **aligned} if weight else {}
                out.append(self.recipe(subject, "topk", d_sae, k=k, **fields))
        return out

    @cached_property
    def frontier(self) -> list[Recipe]:
        """Every recipe compared, and a frozen-decoder TopK for each width and L0 among them."""
        recipes = compared_recipes(self.config, self.sized)
        return [*recipes, *dict.fromkeys(self.frozen_control(r) for r in recipes)]

    def _frontier_seeds(self, recipe: Recipe) -> list[int]:
        """Seeds of a recipe of the frontier; a consensus may ask for fewer groups."""
        f = self.config.frontier
        for entry, made in zip(f.recipes or [], self.frontier, strict=False):
            if made == recipe and entry.consensus:
                return f.seeds[: entry.consensus.groups]
        return f.seeds

    @cached_property
    def scaling(self) -> list[Recipe]:
        """Token budget x hook x d_sae, and a frozen-decoder control per hook and d_sae."""
        s, subject, out = self.config.scaling, self.config.external.subject, []
        for hook, d_sae in product(s.hooks, s.d_sae):
            fields = {"d_sae": d_sae, "l0": s.k, "hook_name": hook}
            out += [
                self.sized(subject, s.architecture, n_rows=n, **fields) for n in s.token_budgets
            ]
            out.append(self.sized(subject, "topk", frozen_decoder=True, **fields))
        return out

    @cached_property
    def brought(self) -> list[Brought]:
        """SAEs of other trainers, as configured."""
        return [
            bring(c.name, c.path, c.subject, c.hook, c.confirmation)
            for c in self.config.external.candidates
        ]

    @cached_property
    def brought_controls(self) -> list[Recipe]:
        """A frozen-decoder TopK per brought ensemble; its import says at which width and L0."""
        return [self.frozen_control(b) for b in self.brought]

    def frozen_control(self, recipe: Recipe | Brought) -> Recipe:
        """The frozen-decoder TopK of the subject, hook, width and L0 of ``recipe``."""
        subject, fields = recipe.subject, {"hook_name": recipe.hook_name, "frozen_decoder": True}
        if isinstance(recipe, Brought):
            tag = f"as-{recipe.name}"
            return self.recipe(subject, "topk", MATCHED, k=MATCHED, tag=tag, **fields)
        l0 = recipe.k if recipe.k is not None else recipe.l0_target
        k = int(l0) if l0 != CALIBRATED else l0
        return self.recipe(subject, "topk", recipe.d_sae, k=k, **fields)

    def trained_control(self, subject: str, recipe_id: str) -> Recipe | None:
        """The frozen-decoder control, where one is trained; a control has none."""
        found = self.get(subject, recipe_id)
        recipe = found if isinstance(found, Brought) else found.recipe
        if isinstance(recipe, Recipe) and recipe.frozen_decoder:
            return None
        control = self.frozen_control(recipe)
        return control if (subject, control.id) in self.trained else None

    def may_fail(self, recipe: Recipe) -> bool:
        """Whether a failure of ``recipe`` is a row of a table: no other stage builds on it."""
        stages = (self.baseline, self.ablations, self.calibration_search, self.calibration_retrain)
        needed = [*self.consistency, *(recipe for recipes, _ in stages for recipe in recipes)]
        compared = (*self.frontier, *self.brought_controls, *self.scaling, *self.l0_matched[0])
        return recipe in compared and recipe not in needed

    def waits_for(self, recipe: Recipe) -> str | None:
        """The JSON file that fills in ``recipe``: calibration's choice, or a brought SAE's size."""
        if recipe.d_sae == MATCHED:
            like = next(b for b in self.brought if self.frozen_control(b) == recipe)
            return f"results/saes/{like.subject}/{like.id}/matched.json"
        return "results/calibration/selected.json" if recipe.needs_calibration else None

    def get(self, subject: str, recipe_id: str) -> Trained | Brought:
        """The trained recipe, or the brought SAEs, of that name.

        Raises
        ------
        HusaiError
            The configuration has neither of that name.
        """
        known = {(b.subject, b.id): b for b in self.brought} | self.trained
        if (subject, recipe_id) not in known:
            names = [name for of, name in known if of == subject]
            raise HusaiError(
                f"results/saes/{subject}/{recipe_id}: the configuration trains no such "
                f"recipe{nearest(recipe_id, names)}"
            )
        return known[subject, recipe_id]

    def compared(self) -> list[Recipe | Brought]:
        """All that the frontier table compares: recipes, brought SAEs and their controls."""
        return [*self.frontier, *self.brought, *self.brought_controls]

    def reproducible(self) -> list[Recipe | Brought]:
        """What it compares seed against seed: no controls, and no SAE that was brought alone."""
        return [
            *(r for r in self.frontier if not r.frozen_decoder),
            *(b for b in self.brought if len(b.members) > 1),
        ]

    def pool_hooks(self) -> list[str]:
        """Hooks the candidate may come from."""
        hooks = [r.hook_name for r in (*self.frontier, *self.scaling, *self.brought)]
        return list(dict.fromkeys(hooks))

    def pool_is_calibrated(self) -> bool:
        """Whether a candidate may wait for the calibration stage."""
        return any(r.needs_calibration for r in (*self.frontier, *self.scaling))
