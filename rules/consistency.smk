# Alignment to a reference decoder (assignment v2).


def probed_consistency():
    """Sparse probing of the consistency recipes of the subject that has external benchmarks."""
    recipes = [r for r in PLAN.consistency if r.subject == LANGUAGE]
    return [
        f"results/external/{r.id}/seed{s}/saebench.json"
        for r in recipes
        for s in CONFIG.consistency.seeds
    ]


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
        spec=SLICES.stage("consistency"),
    message:
        "Consistency: alignment to a reference decoder"
    shell:
        "husai summarize consistency --spec {params.spec:q} --inputs {input} --out {output.json} > {log} 2>&1"
