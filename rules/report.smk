# What a reader sees: report, evidence mirror, experiment log, picture of the workflow.


localrules:
    dag,
    log,


rule report:
    input:
        summaries=stage_summaries(),
        external=external_tables(),
        decisions=expand("results/gate/{policy}/release_policy.json", policy=POLICIES),
        selftest="results/gate/selftest.json",
        passport="results/passport/passport.json",
    output:
        html="reports/gate_report.html",
        md="reports/gate_report.md",
    log:
        "logs/report.log",
    benchmark:
        "results/benchmarks/report.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec="{}",
    message:
        "Report"
    shell:
        "husai report --results results --out reports > {log:q} 2>&1"


rule log:
    input:
        "reports/gate_report.md",
    output:
        "reports/experiment_log.md",
    log:
        "logs/log.log",
    benchmark:
        "results/benchmarks/log.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec="{}",
    message:
        "Experiment log"
    shell:
        "husai log --results results --out {output:q} > {log:q} 2>&1"


rule dag:
    output:
        "reports/dag.svg",
    log:
        "logs/dag.log",
    benchmark:
        "results/benchmarks/dag.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **DRAWING_JOB,
    params:
        spec=SPECS.dag(),
    message:
        "Picture of the workflow"
    shell:
        "husai dag --snakefile {resources.snakefile} --configfile {resources.config_files} --out {output:q} > {log:q} 2>&1"
