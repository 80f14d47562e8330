# Trained SAEs against every null (phase 4a).


rule baseline:
    input:
        stability=stability_of(PLAN.baseline[0][:1]),
        subject=f"results/subjects/{CONFIG.baseline.subject}/model/manifest.json",
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
        mem_mb=RUN["mem_mb"],
        runtime=30,
    params:
        spec=SLICES.stage("baseline"),
    message:
        "Baseline: trained SAEs against every null"
    shell:
        "husai summarize baseline --spec {params.spec:q} --inputs {input} --out {output.json} > {log} 2>&1"
