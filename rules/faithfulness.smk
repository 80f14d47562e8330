# Faithfulness: what the subject loses when an SAE's reconstruction takes the place of its activations.


# All seeds of a recipe in the same passes: most of the time goes to the subject, not to the SAE.
for NAME_OF_RULE, SEEDS, IDS in by_seeds("faithfulness"):

    rule:
        name:
            NAME_OF_RULE
        input:
            saes=external_sae,
            model=f"results/subjects/{LANGUAGE}/model/manifest.json",
        output:
            expand("results/external/{{recipe}}/seed{seed}/faithfulness.json", seed=SEEDS),
        log:
            "logs/faithfulness/{recipe}.log",
        benchmark:
            "results/benchmarks/faithfulness/{recipe}.tsv"
        wildcard_constraints:
            recipe=IDS,
        priority: awaited
        conda:
            ENV
        threads: THREADS
        resources:
            **GPU_JOB,
        params:
            spec=SPECS.faithfulness(),
            seeds=SEEDS,
        message:
            "Faithfulness of {wildcards.recipe}"
        shell:
            "husai faithfulness --spec {params.spec:q} --saes {input.saes:q} --seed {params.seeds:q} --model {input.model:q} --out {output:q}"
            " --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


rule confirm_faithfulness:
    input:
        saes="results/confirmation/{role}/manifest.json",
        model=f"results/subjects/{LANGUAGE}/model/manifest.json",
    output:
        "results/confirmation/external/{role}/faithfulness.json",
    log:
        "logs/confirm_faithfulness/{role}.log",
    benchmark:
        "results/benchmarks/confirm_faithfulness/{role}.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=SPECS.faithfulness("confirmation"),
    message:
        "Confirmation: faithfulness of {wildcards.role} on held-out text"
    shell:
        "husai faithfulness --all-seeds --spec {params.spec:q} --saes {input.saes:q} --model {input.model:q} --out {output:q}"
        " --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"
