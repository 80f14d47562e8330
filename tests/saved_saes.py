"""SAEs as SAELens, dictionary_learning and sparsify save them, with the codes and reconstructions
that those compute.

SAELens' own classes are the judge. The other two are when they are installed; elsewhere their
published formulas are, written out below.
"""

import json
import os

import torch
from safetensors.torch import save_file

D_IN, D_SAE, K = 12, 40, 5


def tensor(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ROWS = tensor(300, D_IN, seed=9)


class Case:
    """One kind of file: who saves it, how to write it, and what its trainer computes from it."""

    def __init__(self, trainer, name, saved, write, judge, settings=None):
        self.trainer, self.name, self.saved = trainer, name, saved
        self._write, self._judge, self._settings = write, judge, settings or {}

    def make(self, folder):
        """Write it to ``folder``; codes and reconstructions of :data:`ROWS`."""
        with torch.no_grad():
            made = self._write(folder)
            self._edit(folder)
            return self._judge(folder, made)

    def _edit(self, folder):
        if self._settings:
            path = folder / "cfg.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **self._settings}))


# --- SAELens


def perturbed(sae, scale=0.3):
    with torch.no_grad():
        for i, (name, parameter) in enumerate(sorted(sae.named_parameters())):
            noise = tensor(*parameter.shape, seed=20 + i, scale=scale)
            parameter.add_(noise.abs() if name == "threshold" else noise)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.4)
    return sae


def inference_sae(name, **settings):
    from sae_lens.registry import get_sae_class

    sae_class, config_class = get_sae_class(name)
    if "transcoder" in name:
        settings = {"d_out": 7, "apply_b_dec_to_input": False, **settings}
    if name == "temporal":
        settings = {"n_heads": 1, "bottleneck_factor": 4, "kval_topk": K, **settings}
    if "topk" in name:
        settings = {"k": K, **settings}
    return sae_class(config_class(d_in=D_IN, d_sae=D_SAE, **settings))


def training_sae(name, **settings):
    from sae_lens.registry import get_sae_training_class

    sae_class, config_class = get_sae_training_class(name)
    if "topk" in name:
        settings = {"k": K, **settings}
    if name.startswith("matryoshka"):
        settings = {"matryoshka_widths": [10, D_SAE], **settings}
    return perturbed(sae_class(config_class(d_in=D_IN, d_sae=D_SAE, **settings)))


def by_saelens(folder, _=None):
    """What SAELens computes from the files themselves, in float32."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(folder).to(dtype=torch.float32)
    code = sae.encode(ROWS)
    return code, sae.decode(code)


def by_final(folder, trained):
    """What SAELens computes from the inference files of the same training state."""
    final = folder.with_name(folder.name + "-final")
    trained.save_inference_model(final)
    return by_saelens(final)


def saelens_inference(name, label=None, skip=True, **settings):
    def write(folder):
        sae = perturbed(inference_sae(name, **settings))
        if not skip:
            sae.W_skip.zero_()
        sae.save_model(folder)

    judge = (lambda *_: (None, None)) if name == "temporal" else by_saelens
    return Case("SAELens", name, label or "inference", write, judge)


def saelens_training(name, checkpoint, **settings):
    def write(folder):
        sae = training_sae(name, **settings)
        (sae.save_model if checkpoint else sae.save_inference_model)(folder)
        return sae

    label = "checkpoint in training" if checkpoint else "result of training"
    notes = "".join(
        f", {k} {v}" for k, v in settings.items() if k == "rescale_acts_by_decoder_norm"
    )
    return Case("SAELens", name, label + notes, write, by_final if checkpoint else by_saelens)


def normalised(kind, files, label, name="topk", **settings):
    """A checkpoint of training on normalised activations; its final weights are the judge's."""
    from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening

    matrix = torch.eye(D_IN) + tensor(D_IN, D_IN, seed=5, scale=0.2)
    whitening = ActivationWhitening(
        tensor(D_IN, seed=6), matrix, torch.linalg.inv(matrix).contiguous()
    )
    scaled = kind == "expected_average_only_in"
    scaler = ActivationScaler(0.25 if scaled else None, None if scaled else whitening)

    def write(folder):
        sae = training_sae(name, normalize_activations=kind, **settings)
        sae.save_model(folder)
        if files:
            scaler.save(str(folder / "activation_scaler.json"))
        return sae

    def judge(folder, sae):
        if not files:
            return None, None
        if scaled:
            sae.fold_activation_norm_scaling_factor(0.25)
        else:
            sae.fold_activation_whitening(
                whitening.mean, whitening.matrix, whitening.inverse_matrix
            )
        return by_final(folder, sae)

    return Case("SAELens", name, label, write, judge)


def saelens_cases():
    skips = ("skip_transcoder", "jumprelu_skip_transcoder")
    plain = ("standard", "gated", "topk", "abstopk", "jumprelu", "transcoder")
    trained = ("standard", "gated", "topk", "abstopk", "jumprelu", "batchtopk")
    trained += ("matryoshka_batchtopk", "matching_pursuit")
    rescaled = ("topk", "abstopk", "batchtopk", "matryoshka_batchtopk")
    flag = "rescale_acts_by_decoder_norm"
    scale, whiten = "expected_average_only_in", "covariance_whitening"
    return [
        *(saelens_inference(n) for n in (*plain, "jumprelu_transcoder", "matching_pursuit")),
        *(saelens_inference(n, "inference, W_skip 0", skip=False) for n in skips),
        *(saelens_inference(n, "inference, W_skip not 0") for n in skips),
        saelens_inference("temporal"),
        saelens_inference("standard", "inference, bfloat16", dtype="bfloat16"),
        saelens_inference("jumprelu", "inference, float16", dtype="float16"),
        saelens_inference("topk", "inference, input not centred", apply_b_dec_to_input=False),
        saelens_inference("standard", "inference, layer_norm", normalize_activations="layer_norm"),
        *(
            saelens_training(n, c, **s)
            for n in trained
            for c in (False, True)
            for s in _flags(n, rescaled, flag)
        ),
        *(normalised(scale, True, "scaled activations, factor beside it", n) for n in trained[:-1]),
        normalised(scale, False, "scaled activations, factor missing"),
        *(
            normalised(whiten, True, "whitened activations, matrices beside it", n)
            for n in trained[:-1]
        ),
        normalised(whiten, False, "whitened activations, matrices missing"),
    ]


def _flags(name, rescaled, flag):
    return [{flag: True}, {flag: False}] if name in rescaled else [{}]


# --- dictionary_learning 0.1


def linear(**more):
    """Weights as torch.nn.Linear stores them: (out, in)."""
    return {
        "encoder.weight": tensor(D_SAE, D_IN),
        "encoder.bias": tensor(D_SAE, seed=1),
        "decoder.weight": tensor(D_IN, D_SAE, seed=2),
        **more,
    }


def parameters(**more):
    return {
        "W_enc": tensor(D_IN, D_SAE),
        "W_dec": tensor(D_SAE, D_IN, seed=1),
        "b_enc": tensor(D_SAE, seed=2),
        "b_dec": tensor(D_IN, seed=3),
        **more,
    }


def largest(pre, k):
    values, indices = pre.relu().topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, values)


def reference_dictionary(kind, s, x):
    """Code and reconstruction by dictionary.py and trainers/*.py of dictionary_learning 0.1."""
    if "W_enc" in s:
        pre = (x if kind == "JumpReluAutoEncoder" else x - s["b_dec"]) @ s["W_enc"] + s["b_enc"]
        code = pre.relu() * (pre.relu() > s["threshold"])
        return code, code @ s["W_dec"] + s["b_dec"]
    bias = {"AutoEncoder": "bias", "GatedAutoEncoder": "decoder_bias"}.get(kind, "b_dec")
    bias = s["decoder.bias"] if kind == "AutoEncoderNew" else s[bias]
    pre = (x if kind == "AutoEncoderNew" else x - bias) @ s["encoder.weight"].T
    pre = pre + s.get("encoder.bias", 0)
    code, decoder = pre.relu(), s["decoder.weight"].T
    if kind == "AutoEncoderTopK":
        code = largest(pre, K)
    if kind == "BatchTopKSAE":
        code = code * (code > s["threshold"])
    if kind == "GatedAutoEncoder":
        code = (pre + s["gate_bias"] > 0) * (s["r_mag"].exp() * pre + s["mag_bias"]).relu()
    out = code @ decoder + bias
    if kind == "AutoEncoder":  # from_pretrained gives the decoder unit norms
        code = code * decoder.norm(dim=1)
    return code, out


def real_dictionary(kind, path):
    """The class itself, from the package; None where it is not installed."""
    try:
        import dictionary_learning.dictionary as d
        from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k
    except ImportError:
        return None
    modules = (d, top_k, batch_top_k, matryoshka_batch_top_k)
    loader = next(getattr(m, kind) for m in modules if hasattr(m, kind)).from_pretrained
    sae = loader(path / "ae.pt")
    code = sae.encode(ROWS)
    return code, sae.decode(code)


def dictionaries():
    states = {
        "AutoEncoder": linear(bias=tensor(D_IN, seed=3)),
        "AutoEncoderNew": linear(**{"decoder.bias": tensor(D_IN, seed=3)}),
        "AutoEncoderTopK": linear(
            b_dec=tensor(D_IN, seed=3), k=torch.tensor(K), threshold=torch.tensor(-1.0)
        ),
        "BatchTopKSAE": linear(
            b_dec=tensor(D_IN, seed=3), k=torch.tensor(K), threshold=torch.tensor(1.1)
        ),
        "MatryoshkaBatchTopKSAE": parameters(
            k=torch.tensor(K), threshold=torch.tensor(0.8), group_sizes=torch.tensor([10, 30])
        ),
        "JumpReluAutoEncoder": parameters(threshold=tensor(D_SAE, seed=4).abs()),
        "GatedAutoEncoder": linear(
            decoder_bias=tensor(D_IN, seed=3),
            r_mag=tensor(D_SAE, seed=4, scale=0.3),
            gate_bias=tensor(D_SAE, seed=5),
            mag_bias=tensor(D_SAE, seed=6),
        ),
    }
    del states["GatedAutoEncoder"]["encoder.bias"]
    return states


def dictionary_cases():
    return [
        dictionary_case(kind, state, checkpoint)
        for kind, state in dictionaries().items()
        for checkpoint in (False, True)
    ] + [unmeasured_dictionary()]


def write_dictionary(folder, kind, state, name="ae.pt"):
    trainer = {"dict_class": kind, "activation_dim": D_IN, "dict_size": D_SAE}
    trainer |= {"k": K} if "k" in state else {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
    (folder / name).parent.mkdir(exist_ok=True)
    torch.save(state, folder / name)


def dictionary_case(kind, state, checkpoint):
    def write(folder):
        write_dictionary(folder, kind, state)
        if checkpoint:
            write_dictionary(folder, kind, state, "checkpoints/ae_100.pt")

    def judge(folder, _):
        return real_dictionary(kind, folder) or reference_dictionary(kind, state, ROWS)

    label = "checkpoints/ae_100.pt" if checkpoint else "ae.pt"
    return Case("dictionary_learning", kind, label, write, judge)


def unmeasured_dictionary():
    state = {**dictionaries()["BatchTopKSAE"], "threshold": torch.tensor(-1.0)}
    return Case(
        "dictionary_learning",
        "BatchTopKSAE",
        "ae.pt, threshold not measured yet",
        lambda folder: write_dictionary(folder, "BatchTopKSAE", state),
        lambda *_: (None, None),
    )


# --- sparsify 1.3


def sparsify_cases():
    return [
        sparsify_case("TopK", {}),
        sparsify_case("TopK, transcode", {"transcode": True}),
        sparsify_case("TopK, skip connection not 0", {"skip_connection": True}),
        sparsify_case("GroupMax", {"activation": "groupmax"}),
    ]


def sparsify_case(name, settings):
    config = {"activation": "topk", "num_latents": D_SAE, "k": K, "d_in": D_IN, **settings}
    state = {
        "encoder.weight": tensor(D_SAE, D_IN),
        "encoder.bias": tensor(D_SAE, seed=1),
        "W_dec": tensor(D_SAE, D_IN, seed=2),
        "b_dec": tensor(D_IN, seed=3),
    }
    if config.get("skip_connection"):
        state["W_skip"] = tensor(D_IN, D_IN, seed=4)

    def write(folder):
        folder.mkdir(parents=True)
        save_file(state, folder / "sae.safetensors")
        (folder / "cfg.json").write_text(json.dumps(config))

    def judge(folder, _):
        return real_coder(folder) or reference_coder(config, state)

    return Case("sparsify", "SparseCoder", name, write, judge)


def real_coder(folder):
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its kernel needs a GPU
    try:
        from sparsify import SparseCoder
    except ImportError:
        return None
    coder = SparseCoder.load_from_disk(folder)
    values, indices, pre = coder.encode(ROWS)
    return torch.zeros_like(pre).scatter(-1, indices, values), coder.decode(values, indices)


def reference_coder(config, s):
    """Code and reconstruction by sparse_coder.py of sparsify 1.3, for TopK."""
    x = ROWS if config.get("transcode") else ROWS - s["b_dec"]
    code = largest(x @ s["encoder.weight"].T + s["encoder.bias"], K)
    return code, code @ s["W_dec"] + s["b_dec"]
