# Ensembles: every seed of a recipe trained in one process; SAEs of other trainers imported.


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
        recipe=f"brought-{NAME}",
    priority: awaited
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=lambda w: SPECS.bring(w.recipe),
    message:
        "Import {wildcards.recipe}"
    shell:
        "husai bring --spec {params.spec:q} --activations {input.activations:q} --out {output.manifest:q} --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


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
        recipe=f"(?!brought-){NAME}",
    priority: awaited
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=lambda w: SPECS.train(w.subject, w.recipe),
    message:
        "Train {wildcards.recipe} on {wildcards.subject}, all seeds together"
    shell:
        "husai train --spec {params.spec:q} --activations {input.activations:q} --reference {input.reference:q} --calibration {input.calibration:q} --out {output:q}"
        " --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


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
    priority: awaited
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec="{}",
    message:
        "Stability of {wildcards.recipe} on {wildcards.subject} against its nulls"
    shell:
        "husai stability --recipe {input.saes:q} --activations {input.activations:q} --frozen {input.frozen:q} --out {output:q}"
        " --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"
