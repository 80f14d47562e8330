# Adaptive L0: search, choice, retraining on fresh seeds beside a matched control.


rule calibration_select:
    input:
        stability_of(PLAN.calibration_search[0]),
    output:
        "results/calibration/selected.json",
    log:
        "logs/calibration_select.log",
    benchmark:
        "results/benchmarks/calibration_select.tsv"
    priority: 1
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec=SPECS.calibration(),
    message:
        "Calibration: choose k"
    shell:
        "husai summarize calibration-select --spec {params.spec:q} --inputs {input:q} --out {output:q} > {log:q} 2>&1"


rule calibration:
    input:
        selected="results/calibration/selected.json",
        stability=stability_of(
            [*PLAN.calibration_search[0], *PLAN.calibration_retrain[0], *PLAN.l0_matched[0]]
        ),
    output:
        json="results/calibration/summary.json",
        parquet="results/calibration/summary.parquet",
        md="results/calibration/summary.md",
    log:
        "logs/calibration.log",
    benchmark:
        "results/benchmarks/calibration.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec=SPECS.calibration(),
    message:
        "Calibration: chosen k on fresh seeds against its control"
    shell:
        "husai summarize calibration --spec {params.spec:q} --inputs {input:q} --out {output.json:q} > {log:q} 2>&1"
