# Trained SAEs against every null (phase 4a).


rule planted:
    output:
        "results/baseline/planted.json",
    log:
        "logs/planted.log",
    benchmark:
        "results/benchmarks/planted.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=SPECS.planted(),
    message:
        "Baseline: recovery of planted features"
    shell:
        "husai train --planted --spec {params.spec:q} --out {output:q} --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


rule baseline:
    input:
        planted="results/baseline/planted.json",
        stability=stability_of([r for r in PLAN.baseline[0] if not r.frozen_decoder]),
        subjects=expand(
            "results/subjects/{subject}/model/manifest.json", subject=CONFIG.baseline.subjects
        ),
    output:
        json="results/baseline/summary.json",
        parquet="results/baseline/summary.parquet",
        md="results/baseline/summary.md",
        evidence="results/baseline/evidence.json",
    log:
        "logs/baseline.log",
    benchmark:
        "results/benchmarks/baseline.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec=SPECS.baseline(),
    message:
        "Baseline: trained SAEs against every null"
    shell:
        "husai summarize baseline --spec {params.spec:q} --inputs {input:q} --out {output.json:q} > {log:q} 2>&1"
