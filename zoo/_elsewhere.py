"""What timm's users ask for that goes by another way here, each with that way: names of the package, arguments of `create`, kinds of names.

Imports nothing, so that a misspelt name costs nothing.
"""

from __future__ import annotations

TIMM = "timm's own works with these models: `from timm.{name} import ...`"

NAMES = {
    **{name: TIMM.format(name=name) for name in ("layers", "loss", "optim", "scheduler", "utils")},
    "models": "`zoo.create(NAME)`; `zoo.list_models()` says which there are",
    "get_arch_name": "a name is `NAME` or `NAME.TAG`",
    "get_pretrained_cfg": "`zoo.info(NAME)`, or `zoo.create(NAME).pretrained_cfg`",
    "get_pretrained_cfg_value": "`zoo.create(NAME).pretrained_cfg[KEY]`",
    "is_model_pretrained": "`zoo.list_pretrained(NAME + '.*')`",
    "is_exportable": "`tests/published/exports.json` says it of each model and format; `zoo.export` writes a file",
    "is_scriptable": "every model of images can be traced by torch.jit.trace",
    "model_entrypoint": "`zoo.create(NAME)`; `zoo.spec(NAME)` is what it is made of",
    "register_model": "`zoo.create(TABLE)`, or a file of TOML: `zoo.create('net.toml')`",
    "load_checkpoint": "`zoo.load(model, PATH, source='timm')`",
    "create_transform": "`zoo.transform(model)`",
    "resolve_data_config": "`zoo.transform(model)`",
    "resolve_model_data_config": "`zoo.transform(model)`",
}
"""Names of timm's package, and of `timm.data`."""

ARGUMENTS = {
    "act_layer": 'swap={"act": "silu"}',
    "cache_dir": "HF_HUB_CACHE=DIR in the environment",
    "depth": 'zoo.create(NAME, {"depths": [6]})',
    "depths": 'zoo.create(NAME, {"depths": [2, 2, 6, 2]})',
    "dims": 'zoo.create(NAME, {"dims": [64, 128, 256, 512]})',
    "dynamic_img_size": "dynamic_size=True",
    "embed_dim": 'zoo.create(NAME, {"dims": [192]})',
    "exportable": "leave it out: `zoo.export` takes any model",
    "norm_layer": 'swap={"norm": "layer_norm"}',
    "pretrained_cfg": "`zoo.transform(zoo.Preprocess(...))` prepares pictures another way; weights=PATH loads other weights",
    "pretrained_cfg_overlay": "`zoo.transform(zoo.Preprocess(...))` prepares pictures another way; weights=PATH loads other weights",
    "scriptable": "leave it out: torch.jit.trace takes the model",
    "strict_img_size": "dynamic_size=True",
}
"""Arguments of `timm.create_model`, and of the classes behind it."""
