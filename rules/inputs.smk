# What rules read: paths of results, and of what a recipe, a role or a subject is made from.


def activations(subject, hook):
    """Manifest of one activation store."""
    return f"results/subjects/{subject}/activations/{hook}/manifest.json"


def recipe_manifest(recipe):
    """Manifest of one trained recipe."""
    return f"results/saes/{recipe.subject}/{recipe.id}/manifest.json"


def stability_of(recipes):
    """Stability evidence of trained recipes."""
    return [f"results/stability/{r.subject}/{r.id}.json" for r in recipes]


def measured(kind, recipes):
    """External records of every seed of the recipes."""
    return [
        f"results/external/{r.id}/seed{s}/{kind}.json"
        for r in recipes
        for s in PLAN.get(r.subject, r.id).seeds
    ]


def by_seeds(rule_name):
    """Recipes of the language subject that have the same seeds share a rule, as it writes a file for each seed. Yields its
    name, seeds, and a pattern of its recipes; what the frontier compares comes first and has the plain name.
    """
    groups = {}
    for recipe in [*COMPARED, *(t.recipe for t in PLAN.trained.values())]:
        if recipe.subject == LANGUAGE:
            seeds = tuple(PLAN.get(LANGUAGE, recipe.id).seeds)
            groups.setdefault(seeds, {})[re.escape(recipe.id)] = None
    for number, (seeds, ids) in enumerate(groups.items()):
        yield f"{rule_name}_{number}" if number else rule_name, seeds, "|".join(ids)


def stage_summaries():
    """Tables of the internal stages that this run includes."""
    return [f"results/{s}/summary.json" for s in CONFIG.stages if s not in ("frontier", "scaling")]


def external_tables():
    """The frontier, which holds brought SAEs too, and the scaling table where it is made."""
    names = ["frontier", *(["scaling"] if "scaling" in CONFIG.stages else [])]
    return [f"results/external/{name}.json" for name in names]


def subject_parent(wildcards):
    """A randomised subject shares tokenizer and shape with the subject it copies."""
    return (
        f"results/subjects/{wildcards.subject.removesuffix(RANDOM)}/model/manifest.json"
        if wildcards.subject.endswith(RANDOM)
        else []
    )


def stored(wildcards):
    """Activations of the hook that a recipe reads."""
    return activations(wildcards.subject, PLAN.get(wildcards.subject, wildcards.recipe).hook_name)


def reference_ensemble(wildcards):
    """Manifest of the plain twin whose decoder a consistency recipe aligns to."""
    recipe = PLAN.get(wildcards.subject, wildcards.recipe).recipe
    return recipe_manifest(recipe.plain_twin()) if recipe.consistency_weight else []


def calibrated_l0(wildcards):
    """What a recipe waits for: the choice of the calibration stage, or width and L0 of a brought SAE."""
    return PLAN.waits_for(PLAN.get(wildcards.subject, wildcards.recipe).recipe) or []


def frozen_twin(wildcards):
    """Manifest of the frozen-decoder control of a recipe, where one is trained: the fourth null."""
    control = PLAN.trained_control(wildcards.subject, wildcards.recipe)
    return recipe_manifest(control) if control else []


def brought_sources():
    """Imported SAEs, and the files of those kept for the confirmation."""
    return [
        f
        for b in PLAN.brought
        for f in (f"results/saes/{b.subject}/{b.id}/manifest.json", *b.fresh_files())
    ]


def awaited(wildcards):
    """Priority of a job: that of what the choice of a candidate waits for, as the candidate's confirmation takes longest."""
    searched = PLAN.calibration_search[0] if PLAN.pool_is_calibrated() else []
    pool = [r.id for r in (*COMPARED, *PLAN.scaling, *searched)]
    known = {"subject": [LANGUAGE], "hook": POOL_HOOKS, "recipe": pool}
    return int(all(wildcards.get(name) in (None, *values) for name, values in known.items()))


def external_sae(wildcards):
    """Manifest of the recipe an external record is about."""
    PLAN.get(LANGUAGE, wildcards.recipe)
    return f"results/saes/{LANGUAGE}/{wildcards.recipe}/manifest.json"


def probed_consistency():
    """Sparse probing of the consistency recipes of the subject that has external benchmarks."""
    recipes = [r for r in PLAN.consistency if r.subject == LANGUAGE]
    return [
        f"results/external/{r.id}/seed{s}/saebench.json"
        for r in recipes
        for s in CONFIG.consistency.seeds
    ]


def probed_subject(wildcards):
    """Subject whose activations the SAEs of a role are probed on."""
    return RANDOM_LANGUAGE if wildcards.role == "random_model" else LANGUAGE


def role_baselines(wildcards):
    """Probing baselines of the subject; SAEs on the randomised one are compared with none."""
    if wildcards.role == "random_model":
        return []
    return expand("results/external/baselines/confirmation/{hook}.json", hook=POOL_HOOKS)


def role_sources(wildcards):
    """What a role may be made of: which recipe is the candidate is not known before the run, so all stores and all brought SAEs."""
    if wildcards.role == "transcoder":
        return [
            activations(CONFIG.stress.transcoder_subject, h) for h in CONFIG.stress.transcoder_hooks
        ]
    return [
        *(activations(probed_subject(wildcards), h) for h in POOL_HOOKS),
        *(brought_sources() if wildcards.role == "candidate" else []),
    ]
