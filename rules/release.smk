# The candidate as a folder to hand on, with its passports and its verdict, whatever that is.


rule release:
    input:
        decision="results/gate/strict/release_policy.json",
        passport="results/passport/manifest.json",
        saes="results/confirmation/candidate/manifest.json",
        model=f"results/subjects/{LANGUAGE}/model/manifest.json",
    output:
        "results/release/manifest.json",
    log:
        "logs/release.log",
    benchmark:
        "results/benchmarks/release.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **GPU_JOB,
    params:
        spec="{}",
    message:
        "Release folder"
    shell:
        "husai export --out {output:q} --device {resources.device} --threads {threads} > {log:q} 2>&1"
