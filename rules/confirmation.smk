# The candidate again: fresh seeds, held-out data families, one attempt.
# Priorities: what the official probing engine waits for comes first, as it ends last.


rule confirm_train:
    input:
        candidate="results/selection/selected_candidate.json",
        sources=role_sources,
        calibration="results/calibration/selected.json" if PLAN.pool_is_calibrated() else [],
    output:
        "results/confirmation/{role,candidate|frozen}/manifest.json",
    log:
        "logs/confirm_train/{role}.log",
    benchmark:
        "results/benchmarks/confirm_train/{role}.tsv"
    priority: 1
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=SPECS.confirmation(),
    message:
        "Confirmation: train {wildcards.role} on fresh seeds"
    shell:
        "husai train --role {wildcards.role:q} --candidate {input.candidate:q} --calibration {input.calibration:q} --spec {params.spec:q} --out {output:q}"
        " --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


rule confirm_stability:
    input:
        saes="results/confirmation/{role}/manifest.json",
        frozen=lambda w: (
            "results/confirmation/frozen/manifest.json" if w.role == "candidate" else []
        ),
    output:
        "results/confirmation/stability/{role}.json",
    log:
        "logs/confirm_stability/{role}.log",
    benchmark:
        "results/benchmarks/confirm_stability/{role}.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        phase=lambda w: "confirmation" if w.role == "candidate" else [],
    message:
        "Confirmation: stability of {wildcards.role}"
    shell:
        "husai stability --recipe {input.saes:q} --split confirmation --phase {params.phase:q} --frozen {input.frozen:q} --out {output:q} --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


rule confirm_saebench:
    input:
        saes="results/confirmation/{role}/manifest.json",
        probes=lambda w: f"results/subjects/{probed_subject(w)}/probes/manifest.json",
        baselines=role_baselines,
    output:
        "results/confirmation/external/{role}/saebench.json",
    log:
        "logs/confirm_saebench/{role}.log",
    benchmark:
        "results/benchmarks/confirm_saebench/{role}.tsv"
    priority: 1
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=lambda w: SPECS.probing("confirmation", w.role),
    message:
        "Confirmation: sparse probing of {wildcards.role} on split B"
    shell:
        "husai saebench --all-seeds --spec {params.spec:q} --saes {input.saes:q} --probes {input.probes:q} --baselines {input.baselines:q} --out {output:q}"
        " --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


rule confirm_cebench:
    input:
        saes="results/confirmation/{role}/manifest.json",
        pairs=f"results/subjects/{LANGUAGE}/pairs/manifest.json",
    output:
        "results/confirmation/external/{role}/cebench.json",
    log:
        "logs/confirm_cebench/{role}.log",
    benchmark:
        "results/benchmarks/confirm_cebench/{role}.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec=SPECS.cebench("confirmation"),
    message:
        "Confirmation: CE-Bench of {wildcards.role} on held-out pairs"
    shell:
        "husai cebench --all-seeds --spec {params.spec:q} --saes {input.saes:q} --pairs {input.pairs:q} --out {output:q}"
        " --device {resources.device} --dtype {resources.dtype} --threads {threads} > {log:q} 2>&1"


rule confirm:
    input:
        candidate="results/selection/selected_candidate.json",
        saes="results/confirmation/candidate/manifest.json",
        stability="results/confirmation/stability/candidate.json",
        external=expand(
            "results/confirmation/external/{role}/{bench}.json",
            role=["candidate", "frozen"],
            bench=["saebench", "cebench", "faithfulness"],
        ),
        stress=expand(
            "results/confirmation/{role}/manifest.json", role=["random_model", "transcoder"]
        ),
        subject=f"results/subjects/{LANGUAGE}/model/manifest.json",
        probes=f"results/subjects/{LANGUAGE}/probes/manifest.json",
    output:
        integrity="results/confirmation/integrity.json",
        stability="results/confirmation/stability.json",
        saebench="results/confirmation/saebench.json",
        cebench="results/confirmation/cebench.json",
        faithfulness="results/confirmation/faithfulness.json",
    log:
        "logs/confirm.log",
    benchmark:
        "results/benchmarks/confirm.tsv"
    conda:
        ENV
    threads: 1
    resources:
        **SMALL_JOB,
    params:
        spec=SPECS.confirmation(),
    message:
        "Confirmation: evidence for the gate"
    shell:
        "husai summarize confirmation --spec {params.spec:q} --inputs {input:q} --out {output.integrity:q} > {log:q} 2>&1"
