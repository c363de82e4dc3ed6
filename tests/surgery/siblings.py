"""A tiny base, a sibling post-trained from it, and an upcycled model of the base."""

import json

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from polycycle.checkpoint import open_checkpoint
from polycycle.surgery import open_delta
from tests.surgery.test_growing import finished
from tests.text import make_tokenizer
from tests.tiny import edit_config


def post_trained(base, out, *, seed=1, std=0.05):
    """`base` with every tensor moved a little, and another end of text."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += std * torch.randn(parameter.shape, generator=generator).to(model.dtype)
    model.generation_config.eos_token_id = 7
    model.save_pretrained(out)
    edit_config(out, eos_token_id=7)
    return out


def siblings(folder, family="llama", dtype=torch.float32, **settings):
    """Folders of an upcycled model with trained experts, its base, and the base's sibling."""
    moe = finished(folder, family, dtype, **settings)
    return moe, folder / "dense", post_trained(folder / "dense", folder / "post")


def delta_of(post, base=None, scale=1.0):
    """The opened delta of two folders."""
    return open_delta(post, base=None if base is None else open_checkpoint(base), scale=scale)


def tensors(folder):
    """All tensors of a small model."""
    return load_file(folder / "model.safetensors")


def change(folder, name, make):
    """Replace one tensor of a saved model; None removes it."""
    found = tensors(folder)
    found[name] = make(found.get(name))
    kept = {key: value.contiguous() for key, value in found.items() if value is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def config_of(folder):
    """A model's config.json."""
    return json.loads((folder / "config.json").read_text())


def add_tokenizer(folder, *, exchange=()):
    """The test tokenizer beside a model; two tokens may exchange their ids."""
    make_tokenizer().save_pretrained(folder)
    if exchange:
        path = folder / "tokenizer.json"
        saved = json.loads(path.read_text(encoding="utf-8"))
        vocab = saved["model"]["vocab"]
        one, other = exchange
        vocab[one], vocab[other] = vocab[other], vocab[one]
        path.write_text(json.dumps(saved), encoding="utf-8")
