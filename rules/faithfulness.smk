# Faithfulness: what the subject loses when an SAE's reconstruction takes the place of its activations.


rule faithfulness:
    input:
        saes=external_sae,
        model=f"results/subjects/{LANGUAGE}/model/manifest.json",
    output:
        "results/external/{recipe}/seed{seed}/faithfulness.json",
    log:
        "logs/faithfulness/{recipe}/seed{seed}.log",
    benchmark:
        "results/benchmarks/faithfulness/{recipe}/seed{seed}.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=SPECS.faithfulness(),
    message:
        "Faithfulness of {wildcards.recipe}, seed {wildcards.seed}"
    shell:
        "husai faithfulness --spec {params.spec:q} --saes {input.saes:q} --seed {wildcards.seed:q} --model {input.model:q} --out {output:q}"
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
