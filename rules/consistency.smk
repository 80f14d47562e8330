# Alignment to a reference decoder (assignment v2).


rule consistency:
    input:
        stability=stability_of(PLAN.consistency),
        probing=probed_consistency(),
    output:
        json="results/consistency/summary.json",
        parquet="results/consistency/summary.parquet",
        md="results/consistency/summary.md",
    log:
        "logs/consistency.log",
    benchmark:
        "results/benchmarks/consistency.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec=SPECS.consistency(),
    message:
        "Consistency: alignment to a reference decoder"
    shell:
        "husai summarize consistency --spec {params.spec:q} --inputs {input:q} --out {output.json:q} > {log:q} 2>&1"
