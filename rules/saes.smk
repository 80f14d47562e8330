# Ensembles: every seed of a recipe trained in one process.


def planned(wildcards):
    """The recipe a path names."""
    return PLAN.get(wildcards.subject, wildcards.recipe).recipe


def reference_ensemble(wildcards):
    """Manifest of the plain twin whose decoder a consistency recipe aligns to."""
    recipe = planned(wildcards)
    return recipe_manifest(recipe.plain_twin()) if recipe.consistency_weight else []


def calibrated_l0(wildcards):
    """The choice of the calibration stage, for recipes that wait for it."""
    return "results/calibration/selected.json" if planned(wildcards).needs_calibration else []


def frozen_twin(wildcards):
    """Manifest of the frozen-decoder control of a recipe, where one is trained: the fourth null."""
    recipe = planned(wildcards)
    control = PLAN.frozen_control(recipe)
    return recipe_manifest(control) if (control.subject, control.id) in PLAN.trained and not recipe.frozen_decoder else []


rule train:
    input:
        activations=lambda w: activations(w.subject, planned(w).hook_name),
        reference=reference_ensemble,
        calibration=calibrated_l0,
    output:
        "results/saes/{subject}/{recipe}/manifest.json",
    log:
        "logs/train/{subject}/{recipe}.log",
    benchmark:
        "results/benchmarks/train/{subject}/{recipe}.tsv"
    conda:
        ENV
    threads: RUN["threads"]
    resources:
        gpu=1,
        gpu_mem_mb=RUN["gpu_mem_mb"],
        mem_mb=RUN["mem_mb"],
        runtime=RUN["runtime"],
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
        activations=lambda w: activations(w.subject, planned(w).hook_name),
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
        gpu=1,
        gpu_mem_mb=RUN["gpu_mem_mb"],
        mem_mb=RUN["mem_mb"],
        runtime=RUN["runtime"],
    params:
        spec="{}",
    message:
        "Stability of {wildcards.recipe} on {wildcards.subject} against its nulls"
    shell:
        "husai stability --recipe {input.saes} --activations {input.activations} --frozen {input.frozen} --out {output}"
        " {RUN[where]} --threads {threads} > {log} 2>&1"
