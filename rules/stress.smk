# Stress tests of the candidate.


use rule confirm_train as stress_train with:
    output:
        "results/confirmation/{role,random_model|transcoder}/manifest.json",
    log:
        "logs/stress_train/{role}.log",
    benchmark:
        "results/benchmarks/stress_train/{role}.tsv"
    priority: 0
    message:
        "Stress: train {wildcards.role} on fresh seeds"


rule random_model:
    input:
        candidate="results/confirmation/stability/candidate.json",
        other="results/confirmation/stability/random_model.json",
        probed="results/confirmation/external/candidate/saebench.json",
        probed_other="results/confirmation/external/random_model/saebench.json",
    output:
        "results/stress/random_model.json",
    log:
        "logs/random_model.log",
    benchmark:
        "results/benchmarks/random_model.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec="{}",
    message:
        "Stress: candidate against random_model"
    shell:
        "husai summarize random_model --inputs {input:q} --out {output:q} > {log:q} 2>&1"


rule transcoder:
    input:
        candidate="results/confirmation/stability/candidate.json",
        other="results/confirmation/stability/transcoder.json",
    output:
        "results/stress/transcoder.json",
    log:
        "logs/transcoder.log",
    benchmark:
        "results/benchmarks/transcoder.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec="{}",
    message:
        "Stress: candidate against transcoder"
    shell:
        "husai summarize transcoder --inputs {input:q} --out {output:q} > {log:q} 2>&1"


rule ood:
    input:
        saes="results/confirmation/candidate/manifest.json",
        probes=f"results/subjects/{LANGUAGE}/probes/manifest.json",
    output:
        "results/stress/ood.json",
    log:
        "logs/ood.log",
    benchmark:
        "results/benchmarks/ood.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=SPECS.ood(),
    message:
        "Stress: probes out of their domain"
    shell:
        "husai ood --spec {params.spec:q} --saes {input.saes:q} --probes {input.probes:q} --out {output:q} --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"
