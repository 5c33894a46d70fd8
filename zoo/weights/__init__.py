"""Verified bytes for a model: manifest, source, hash, header, strict load, key rules, adaptation, probe.

The way of our weights: `source.resolve` (manifest -> verified path) -> `load.read_tensors` (our header check, then
safetensors) -> `load.load_state` (strict, onto a meta-built model). The way of a checkpoint from elsewhere:
`source.open_checkpoint` -> `KeyRules.open` -> `KeyRules.to_zoo` -> `load.load_state`. Importing this package imports
nothing else.
"""
