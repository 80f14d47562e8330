# Ensembles: every seed of a recipe trained in one process; SAEs of other trainers imported.


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


rule bring:
    input:
        files=lambda w: PLAN.get(w.subject, w.recipe).files(),
        activations=stored,
    output:
        manifest="results/saes/{subject}/{recipe}/manifest.json",
        matched="results/saes/{subject}/{recipe}/matched.json",
    log:
        "logs/bring/{subject}/{recipe}.log",
    benchmark:
        "results/benchmarks/bring/{subject}/{recipe}.tsv"
    wildcard_constraints:
        recipe="brought-[^/]+",
    conda:
        ENV
    threads: RUN["threads"]
    resources:
        **GPU_JOB,
    params:
        spec=lambda w: SLICES.bring(w.recipe),
    message:
        "Import {wildcards.recipe}"
    shell:
        "husai bring --spec {params.spec:q} --activations {input.activations} --out {output.manifest} {RUN[where]} --threads {threads} > {log} 2>&1"


rule train:
    input:
        activations=stored,
        reference=reference_ensemble,
        calibration=calibrated_l0,
    output:
        "results/saes/{subject}/{recipe}/manifest.json",
    log:
        "logs/train/{subject}/{recipe}.log",
    benchmark:
        "results/benchmarks/train/{subject}/{recipe}.tsv"
    wildcard_constraints:
        recipe="(?!brought-)[^/]+",
    conda:
        ENV
    threads: RUN["threads"]
    resources:
        **GPU_JOB,
    params:
        spec=lambda w: SLICES.train(w.subject, w.recipe),
    message:
        "Train {wildcards.recipe} on {wildcards.subject}, all seeds together"
    shell:
        "husai train --spec {params.spec:q} --activations {input.activations} --reference {input.reference} --calibration {input.calibration} --out {output}"
        " {RUN[where]} --threads {threads} > {log} 2>&1"


rule stability:
    input:
        saes="results/saes/{subject}/{recipe}/manifest.json",
        activations=stored,
        frozen=frozen_twin,
    output:
        "results/stability/{subject}/{recipe}.json",
    log:
        "logs/stability/{subject}/{recipe}.log",
    benchmark:
        "results/benchmarks/stability/{subject}/{recipe}.tsv"
    conda:
        ENV
    threads: RUN["threads"]
    resources:
        **GPU_JOB,
    params:
        spec="{}",
    message:
        "Stability of {wildcards.recipe} on {wildcards.subject} against its nulls"
    shell:
        "husai stability --recipe {input.saes} --activations {input.activations} --frozen {input.frozen} --out {output}"
        " {RUN[where]} --threads {threads} > {log} 2>&1"
