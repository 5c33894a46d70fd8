"""Faults that users of timm and transformers, of wrappers and tracers met."""

from tests.faults.catalogue import fault


@fault("18", "high", "names with the prefix of a wrapper are loaded, or refused in one problem that names it")
def prefixed_names():
    import zoo

    state = zoo.create("starnet_nano").state_dict()
    for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
        try:
            zoo.create("starnet_nano", weights={prefix + key: tensor for key, tensor in state.items()})
        except zoo.WeightsError as error:
            if len(str(error).splitlines()) > 6 or prefix not in str(error):
                return f"`{prefix}` is answered by {str(error).splitlines()[0]}"
    return None


@fault("18b", "medium", "a compiled model is saved under the names of the model inside")
def saved_compiled():
    import torch

    import zoo

    zoo.save(torch.compile(zoo.create("starnet_nano")), "net.safetensors")
    try:
        zoo.create("starnet_nano", weights="net.safetensors")
    except zoo.WeightsError as error:
        return str(error).splitlines()[0]
    return None


@fault("19", "high", "every set of key rules that ships can be read")
def key_rules():
    import zoo
    from zoo.weights.convert import KeyRules

    for name in zoo.list_models():
        for source, rules in zoo.spec(name).keys.items() if "/" not in name else ():
            try:
                KeyRules.from_data(rules, name)
            except zoo.SpecError as error:
                return f"{name}, {source}: {error.problems[0].sentence()}"
    return None


@fault("17", "low", "a spec file may lie in a folder with a colon in its name")
def colon_in_a_folder():
    import pathlib

    import zoo

    folder = pathlib.Path("a:b")
    folder.mkdir()
    (folder / "net.toml").write_text((pathlib.Path(zoo.__file__).parent / "models" / "starnet.toml").read_text())
    try:
        zoo.spec("a:b/net.toml:starnet_nano")
    except zoo.SpecError as error:
        return str(error).splitlines()[0]
    return None
