# Grids over k and d_sae (phase 4c).


rule ablations:
    input:
        stability=stability_of(PLAN.ablations[0]),
    output:
        json="results/ablations/summary.json",
        parquet="results/ablations/summary.parquet",
        md="results/ablations/summary.md",
    log:
        "logs/ablations.log",
    benchmark:
        "results/benchmarks/ablations.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec=SPECS.ablations(),
    message:
        "Ablations: k and d_sae grids"
    shell:
        "husai summarize ablations --spec {params.spec:q} --inputs {input:q} --out {output.json:q} > {log:q} 2>&1"
