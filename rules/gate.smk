# The decision, the proof that it can say no, and the exit status.


localrules:
    gate_assert,


EVIDENCE = [
    *expand(
        "results/confirmation/{name}.json",
        name=["integrity", "stability", "saebench", "cebench", "faithfulness"],
    ),
    *expand("results/stress/{name}.json", name=["random_model", "transcoder", "ood"]),
    *(["results/baseline/evidence.json"] if "baseline" in CONFIG.stages else []),
]


rule gate_selftest:
    output:
        "results/gate/selftest.json",
    log:
        "logs/gate_selftest.log",
    benchmark:
        "results/benchmarks/gate_selftest.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=SPECS.gate_selftest(),
    message:
        "Gate self-test: adversaries, oracle, simulated null campaigns"
    shell:
        "husai gate selftest --spec {params.spec:q} --out {output:q} --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


rule gate:
    input:
        policy=lambda w: POLICY_FILES[w.policy],
        evidence=EVIDENCE,
        candidate="results/selection/selected_candidate.json",
        cycle3=("results/selection/cycle3/selected_candidate.json" if "cycle3" in POLICIES else []),
    output:
        json="results/gate/{policy}/release_policy.json",
        md="results/gate/{policy}/release_policy.md",
    log:
        "logs/gate/{policy}.log",
    benchmark:
        "results/benchmarks/gate/{policy}.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec="{}",
    message:
        "Gate: {wildcards.policy}"
    shell:
        "husai gate --policy {input.policy:q} --evidence {input.evidence:q} --candidate {input.candidate:q} --cycle3-candidate {input.cycle3:q}"
        " --output-dir results/gate/{wildcards.policy:q} > {log:q} 2>&1"


rule gate_assert:
    input:
        decision="results/gate/strict/release_policy.json",
        report="reports/gate_report.html",
        log="reports/experiment_log.md",
    output:
        "results/gate/asserted.json",
    log:
        "logs/gate_assert.log",
    benchmark:
        "results/benchmarks/gate_assert.tsv"
    retries: 0
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec=SPECS.gate_assert(),
    message:
        "Gate: exit status"
    shell:
        "husai gate assert --spec {params.spec:q} --decision {input.decision:q} --out {output:q} > {log:q} 2>&1"
