"""Faults that users met: saved models that forget how to see, and pictures that are not what a person sees."""

from tests.faults.catalogue import fault


def _square():
    """A picture whose four quarters differ, so that every turn of it does."""
    import numpy as np

    values = np.zeros((40, 60, 3), np.uint8)
    values[:20, :30], values[:20, 30:], values[20:, :30] = 255, 170, 85
    return values


@fault("D1", "high", "saved weights bring their pre-processing and classes to the model that takes them")
def preparation_travels():
    import zoo

    changes = {"num_classes": 3, "in_chans": 3, "img_size": 64}
    model = zoo.create("mobilenetv4_nano", pretrained=True, **changes)
    zoo.save(model, "mine.safetensors")
    again = zoo.create("mobilenetv4_nano", weights="mine.safetensors", **changes)
    before, after = zoo.transform(model).preprocess, zoo.transform(again).preprocess
    return None if before == after else f"trained with mean {before.mean}, loaded with mean {after.mean}"


@fault("D2", "high", "a file of weights that zoo.save wrote is a model for every command")
def file_alone():
    from PIL import Image

    import zoo
    from zoo import cli

    zoo.save(zoo.create("mobilenetv4_nano", pretrained=True), "mine.safetensors")
    Image.fromarray(_square()).save("picture.png")
    codes = {name: cli.main([*name.split(), "mine.safetensors"]) for name in ("info", "profile")}
    codes["predict"] = cli.main(["predict", "mine.safetensors", "picture.png"])
    failed = [name for name, code in codes.items() if code]
    return f"{', '.join(failed)} refused it" if failed else None


@fault("D3", "medium", "pictures are turned as their EXIF says")
def orientation():
    import torch
    from PIL import Image, ImageOps

    import zoo

    prepare, wrong = zoo.transform("convnext_tiny"), []
    for way in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = way
        Image.fromarray(_square()).save("picture.jpg", exif=exif)
        with Image.open("picture.jpg") as image:
            seen = prepare(ImageOps.exif_transpose(image))
        if not torch.equal(prepare("picture.jpg"), seen):
            wrong.append(way)
    return f"orientations {wrong} are shown as stored" if wrong else None


@fault("D3b", "medium", "what nobody sees of a transparent picture stays hidden")
def transparency():
    import numpy as np
    import torch
    from PIL import Image

    import zoo

    prepare, hidden = zoo.transform("convnext_tiny"), np.zeros((64, 64, 4), np.uint8)
    red = prepare(Image.fromarray(hidden + np.array([255, 0, 0, 0], np.uint8)))
    return None if torch.equal(red, prepare(Image.fromarray(hidden))) else "the colour of transparent pixels shows"


@fault("D3c", "medium", "greys are the same picture in modes L, F, I and I;16")
def modes():
    import numpy as np
    import torch
    from PIL import Image

    import zoo

    prepare, grey = zoo.transform("convnext_tiny"), _square()[..., 0]
    pictures = {
        "F up to 1": grey / np.float32(255), "F": grey.astype(np.float32), "I": grey.astype(np.int32),
        "I of 16 bits": grey.astype(np.int32) * 257, "I;16": grey.astype(np.uint16) * 257,
    }  # fmt: skip
    wrong = [
        name for name, values in pictures.items() if not torch.equal(prepare(Image.fromarray(values)), prepare(grey))
    ]
    return f"modes {', '.join(wrong)} are another picture" if wrong else None


@fault("M3", "medium", "a picture of 1 x 60,000 pixels takes the memory of what is kept of it")
def thin_picture():
    from PIL import Image

    import zoo

    Image.new("L", (1, 60000)).save("thin.png")
    shape = tuple(zoo.transform("resnet50")("thin.png").shape)
    return None if shape == (1, 3, 224, 224) else f"its batch is {shape}"


@fault("L7a", "low", "a picture in CIE L*a*b* is shown")
def lab():
    from PIL import Image, ImageCms

    import zoo

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    picture = Image.fromarray(_square())
    ImageCms.profileToProfile(picture, *profiles, outputMode="LAB").save("lab.tif")
    prepare = zoo.transform("linear_vit_nano")
    apart = (prepare("lab.tif") - prepare(picture)).abs().max().item()
    return f"it is another picture, by {apart:.2f}" if apart > 0.1 else None


@fault("L7b", "low", "zoo predict refuses a pipe in a sentence", seconds=30)
def pipe():
    import os

    from zoo import cli

    os.mkfifo("pipe.png")
    code = cli.main(["predict", "linear_vit_nano", "pipe.png"])
    return None if code == 2 else f"exit code {code}"


@fault("L9", "low", "a record of the Hub says each thing once")
def doubled_key():
    try:
        from zoo.artifacts.record import SCHEMA, read_record
    except ImportError:
        from zoo.artifacts.repository import SCHEMA, read_record
    import json

    import zoo
    from zoo.artifacts.client import Reference

    spec = zoo.spec("starnet_nano")
    manifest = {
        "model": "starnet_nano", "tag": "hub", "digest": spec.digest, "source": "file:model.safetensors", "state": "pinned",
        "size_bytes": 1, "sha256": "0" * 64, "licence": "MIT", "origin": "a test", "licence_class": "permissive",
    }  # fmt: skip
    text = json.dumps({"schema": SCHEMA, "manifest": manifest, "spec": spec.plain()})
    accepted = []
    for name, other in (("two licences", ', "licence": "Apache-2.0", "licence": "MIT"'), ("NaN", ', "licence": NaN')):
        try:
            read_record(text.replace(', "licence": "MIT"', other).encode(), Reference("a/b", "main"))
        except zoo.WeightsError:
            continue
        accepted.append(name)
    return f"{' and '.join(accepted)} are accepted" if accepted else None
