# The candidate as a folder to hand on, with its passports and its verdict, whatever that is.


rule release:
    input:
        decision="results/gate/strict/release_policy.json",
        passport="results/passport/manifest.json",
        saes="results/confirmation/candidate/manifest.json",
        model=f"results/subjects/{LANGUAGE}/model/manifest.json",
    output:
        manifest="results/release/manifest.json",
        card="results/release/README.md",
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
        "husai export --out {output.manifest:q} --device {resources.device} --threads {threads} > {log:q} 2>&1"
