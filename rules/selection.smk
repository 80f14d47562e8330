# One candidate from frontier and scaling.


rule select:
    input:
        frontier="results/external/frontier.json",
        scaling=external_tables()[1:],
    output:
        "results/selection/selected_candidate.json",
    log:
        "logs/select.log",
    benchmark:
        "results/benchmarks/select.tsv"
    priority: 1
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec=SPECS.selection(),
    message:
        "Select the candidate (strict)"
    shell:
        "husai select --policy strict --spec {params.spec:q} --frontier-results {input.frontier:q} --scaling-results {input.scaling:q} --output-dir results/selection > {log:q} 2>&1"


rule select_cycle3:
    input:
        frontier="results/external/frontier.json",
        scaling=external_tables()[1:],
    output:
        "results/selection/cycle3/selected_candidate.json",
    log:
        "logs/select_cycle3.log",
    benchmark:
        "results/benchmarks/select_cycle3.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec=SPECS.selection(),
    message:
        "Select the candidate (cycle3)"
    shell:
        "husai select --policy cycle3 --spec {params.spec:q} --frontier-results {input.frontier:q} --scaling-results {input.scaling:q} --output-dir results/selection/cycle3 > {log:q} 2>&1"
