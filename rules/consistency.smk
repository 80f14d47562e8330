# Alignment to a reference decoder (assignment v2).


rule consistency:
    input:
        stability=stability_of(PLAN.consistency),
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
        mem_mb=RUN["mem_mb"],
        runtime=30,
    params:
        spec=SLICES.stage("consistency"),
    message:
        "Consistency: alignment to a reference decoder"
    shell:
        "husai summarize consistency --spec {params.spec:q} --inputs {input} --out {output.json} > {log} 2>&1"
