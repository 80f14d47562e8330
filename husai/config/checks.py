"""Checks across configuration keys: names that must exist, seeds that must be fresh."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from husai.config.data_sets import data_set_checks
from husai.config.draws import resolved_seeds
from husai.config.fields import NAME
from husai.config.schema import Config
from husai.config.stages import STAGES
from husai.errors import HusaiError, nearest
from husai.recipe import RANDOM
from husai.sae_files import default_name, expand, is_remote, listed

ON_SUBJECTS = {
    "baseline": ("d_sae", "k"),
    "ablations": ("k_at_d_sae",),
    "consistency": ("d_sae", "k"),
}
WITHOUT_TEXT = ("modular", "rows")
"""Kinds of subjects that read no text."""


def cross_checks(cfg: Config) -> list[str]:
    """Every contradiction between keys, one readable line each; empty when there is none."""
    return [
        *_subjects(cfg),
        *_per_subject(cfg),
        *_widths(cfg),
        *_seeds(cfg),
        *_external(cfg),
        *_candidates(cfg),
        *_stages(cfg),
        *_policies(cfg),
    ]


def _one_of(name: str, known: Sequence[str]) -> str:
    return f"expected one of {', '.join(known)}{nearest(name, known)}"


def _subjects(cfg: Config) -> list[str]:
    names = list(cfg.subjects)
    uses = [
        ("calibration.subject", cfg.calibration.subject),
        ("external.subject", cfg.external.subject),
        ("stress.transcoder_subject", cfg.stress.transcoder_subject),
        *((f"{stage}.subject", s) for stage in ON_SUBJECTS for s in getattr(cfg, stage).subjects),
    ]
    out = [
        f"{key}: '{name}' is not a subject; {_one_of(name, names)}"
        for key, name in uses
        if name not in names
    ]
    for name, subject in cfg.subjects.items():
        if name.endswith(RANDOM):
            out.append(
                f"subjects.{name}: names that end in {RANDOM} belong to the randomised copies that "
                "the stress tests make; choose another"
            )
        if not subject.hooks:
            out.append(f"subjects.{name}.hooks: empty; name at least one hook point")
        if name not in cfg.training:
            out.append(f"training.{name}: missing; every subject needs its SAE training settings")
        if subject.kind != "modular" and name not in cfg.activations:
            out.append(f"activations.{name}: missing; say how many rows to store")
    external = cfg.external.subject
    out += [
        f"consistency.subject: '{name}' reads text but is not external.subject '{external}', so "
        "nothing could be accepted by its external delta; name a modular subject or that one"
        for name in cfg.consistency.subjects
        if name in names and name != external and cfg.subjects[name].kind not in WITHOUT_TEXT
    ]
    return [*out, *_external_subject(cfg)]


def _external_subject(cfg: Config) -> list[str]:
    """The subject of the external benchmarks reads text, and the hooks asked of it are stored."""
    name, subject = cfg.external.subject, cfg.subjects.get(cfg.external.subject)
    if subject is None:
        return []  # said above
    out = []
    if subject.kind in WITHOUT_TEXT:
        out.append(
            f"external.subject: '{name}' is {subject.kind}; external benchmarks need a model that "
            "reads text (language, pretrained)"
        )
    wanted = [("scaling.hooks", h) for h in cfg.scaling.hooks]
    wanted += [("stress.transcoder_hooks", h) for h in cfg.stress.transcoder_hooks]
    return out + [
        f"{key}: hook '{hook}' is not stored for {name}; {_one_of(hook, subject.hooks)}"
        for key, hook in wanted
        if hook not in subject.hooks
    ]


def _per_subject(cfg: Config) -> list[str]:
    out = []
    for stage, keys in ON_SUBJECTS.items():
        section = getattr(cfg, stage)
        if len(set(section.subjects)) < len(section.subjects):
            out.append(f"{stage}.subject: {section.subjects} names a subject twice")
        for key in keys:
            value = getattr(section, key)
            given = set(value) if isinstance(value, dict) else set(section.subjects)
            out += [
                f"{stage}.{key}: '{name}' is not a subject{nearest(name, list(cfg.subjects))}"
                for name in sorted(given - set(cfg.subjects))
            ]
            out += [
                f"{stage}.{key}: no value for subject '{name}'; give one number for all, or one "
                "for each"
                for name in section.subjects
                if name not in given
            ]
    return out


def _widths(cfg: Config) -> list[str]:
    if _per_subject(cfg):
        return []  # said there
    ablations, calibration, frontier = cfg.ablations, cfg.calibration, cfg.frontier
    pairs = [
        *(
            (f"{name}.k", stage.at("k", s), stage.at("d_sae", s))
            for name, stage in (("baseline", cfg.baseline), ("consistency", cfg.consistency))
            for s in stage.subjects
        ),
        *(
            ("ablations.k", k, ablations.at("k_at_d_sae", s))
            for s in ablations.subjects
            for k in ablations.k
        ),
        *(("ablations.d_sae_at_k", ablations.d_sae_at_k, d) for d in ablations.d_sae),
        *(("calibration.k", k, calibration.d_sae) for k in calibration.k),
        ("calibration.k", calibration.default_k, calibration.d_sae),
        ("frontier.k", frontier.k, frontier.d_sae),
        *(
            (f"frontier.recipes.{i}.l0", r.l0, r.d_sae)
            for i, r in enumerate(frontier.recipes or [])
        ),
        *(("scaling.k", cfg.scaling.k, d) for d in cfg.scaling.d_sae),
    ]
    return [
        f"{key}: k = {k} is larger than d_sae = {d}; a row cannot use more latents than there are"
        for key, k, d in pairs
        if isinstance(k, int) and k > d
    ]


def _seeds(cfg: Config) -> list[str]:
    out = []
    confirmation, stress = resolved_seeds(cfg)
    lists = {f"{stage}.seeds": getattr(cfg, stage).seeds for stage in STAGES}
    lists |= {
        "calibration.retrain_seeds": cfg.calibration.retrain_seeds,
        "confirmation.seeds": confirmation,
        "stress.seeds": stress,
    }
    for key, seeds in lists.items():
        if len(set(seeds)) < len(seeds):
            out.append(f"{key}: {seeds} names a seed twice; one seed is one observation")
    for i, one in enumerate(cfg.frontier.recipes or []):
        groups = (one.consensus and one.consensus.groups) or 0
        if groups > len(cfg.frontier.seeds):
            out.append(
                f"frontier.recipes.{i}.consensus.groups: {groups} groups, but frontier.seeds has "
                f"{len(cfg.frontier.seeds)}; each group takes the name of one"
            )
    used = set(cfg.frontier.seeds) | set(cfg.scaling.seeds)
    if stale := sorted(used & set(confirmation)):
        out.append(
            f"confirmation.seeds: {stale} already chose the candidate; confirmation needs fresh "
            "seeds"
        )
    if stale := sorted(set(cfg.calibration.seeds) & set(cfg.calibration.retrain_seeds)):
        out.append(
            f"calibration.retrain_seeds: {stale} were used by the search; retraining needs fresh "
            "seeds"
        )
    return out


def _external(cfg: Config) -> list[str]:
    probing = cfg.external.probing
    out = [
        f"external.probing.{key}: {k} is not among external.probing.ks {probing.ks}; add it"
        for key, k in (("gate_k", probing.gate_k), ("dense_k", probing.dense_k))
        if k not in probing.ks
    ]
    return [*out, *data_set_checks(cfg)]


def _candidates(cfg: Config) -> list[str]:
    out: list[str] = []
    names: dict[str, int] = {}
    for i, one in enumerate(cfg.external.candidates):
        where, subject = f"external.candidates.{i}", cfg.subjects.get(one.subject)
        name = one.name or default_name(one.path)
        if subject is None:
            out.append(
                f"{where}.subject: '{one.subject}' is not a subject; "
                f"{_one_of(one.subject, list(cfg.subjects))}"
            )
        elif one.subject != cfg.external.subject:
            out.append(
                f"{where}.subject: '{one.subject}' is not external.subject "
                f"('{cfg.external.subject}'), whose SAEs are compared"
            )
        elif one.hook not in subject.hooks:
            out.append(
                f"{where}.hook: '{one.hook}' is not stored for {one.subject}; "
                f"{_one_of(one.hook, subject.hooks)}"
            )
        if not re.fullmatch(NAME, name):
            out.append(
                f"{where}.name: missing; {one.path!r} gives no name that matches {NAME}, so say one"
            )
        elif name in names:
            out.append(
                f"{where}.name: '{name}' is also the name of external.candidates.{names[name]}; "
                "give each its own name"
            )
        names.setdefault(name, i)
        out += _paths(f"{where}.path", one.path) + _paths(f"{where}.confirmation", one.confirmation)
        out += _members(where, expand(one.path), expand(one.confirmation))
    return out


def _paths(where: str, path: str | list[str]) -> list[str]:
    return [
        f"{where}: {p}: no such file or folder (looked from {Path.cwd()}); give a checkpoint or a "
        "folder of seed*/"
        for p in listed(path)
        if not is_remote(p) and not Path(p).exists()
    ]


def _members(where: str, members: Sequence[Path], fresh: Sequence[Path]) -> list[str]:
    out = [] if members else [f"{where}.path: empty; name at least one checkpoint"]
    places = [p.resolve() for p in (*members, *fresh)]
    twice = sorted({str(p) for p in places if places.count(p) > 1})
    if twice:
        out.append(
            f"{where}: {twice[0]} is named twice; one SAE is one observation, and confirmation "
            "needs others than the selection"
        )
    if len(fresh) == 1:
        out.append(
            f"{where}.confirmation: one member; agreement between seeds needs at least two (the "
            "strict policy 8)"
        )
    return out


def _stages(cfg: Config) -> list[str]:
    out = []
    if "frontier" not in cfg.stages and not cfg.external.candidates:
        out.append(
            "stages: the frontier table would be empty; add frontier, or external.candidates"
        )
    if "cycle3" in cfg.gate.policies and "baseline" not in cfg.stages:
        out.append(
            "stages: the policy cycle3 reads the baseline; add it, or leave cycle3 out of "
            "gate.policies"
        )
    return out


def _policies(cfg: Config) -> list[str]:
    """Policies are read before anything runs: a mistake must not show after hours of training."""
    from husai.gate.policy_files import load_policy, policy_name

    out, names = [], [policy_name(p) for p in cfg.gate.policies]
    for name in cfg.gate.policies:
        if not re.fullmatch(NAME, policy_name(name)) or set("{}") & set(name):
            out.append(
                f"gate.policies: {name!r}: results/gate/ has a folder of the policy's name, which "
                f"should match {NAME}, and its path holds no braces; rename the file"
            )
        try:
            load_policy(name)
        except HusaiError as error:
            out.append(f"gate.policies: {error}")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        out.append(
            f"gate.policies: two policies are called '{twice[0]}'; results/gate/{twice[0]}/ has "
            "room for one, rename a file"
        )
    if "strict" not in names:
        out.append(
            f"gate.policies: {cfg.gate.policies} lacks strict, which decides how a run ends; add it"
        )
    return out
