# What users write, as a type checker reads it. Each line marked `error` must be refused, every other accepted.
import torch
from torch import Tensor, nn

import zoo
from zoo.runtimes.deployed import Deployed

lm = zoo.create("gla_nano", pretrained=True)
prompt = torch.tensor([list(b"Return ")])
logits: Tensor = lm(prompt).logits
state = lm(prompt, state={}).state
new: Tensor = lm.generate(prompt, max_new_tokens=24, top_k=1)
columns = [column for column in lm.stream(prompt)]
made: zoo.LanguageModel = zoo.create_model("llama_nano", {"depths": [2]}, dtype=torch.bfloat16)

model: zoo.Backbone = zoo.create("linear_vit_nano", pretrained=True)
shares = model(torch.zeros(1, 1, 32, 32)).softmax(-1)
module: nn.Module = zoo.deploy(model)
prepare = zoo.transform(model)
item: Tensor = prepare.one("picture.png")
zoo.save(model, "mine.safetensors", labels=["a", "b"])

name: str = "gla_nano"
found = zoo.create(name)
assert isinstance(found, zoo.LanguageModel)
text: Tensor = found.generate(prompt)

for candidate in zoo.find(max_params=5e6):
    speed: float | None = candidate.ms
fast: Deployed = zoo.create("resnet50", form="deploy", runtime="auto")
half: Deployed = zoo.create("gla_nano", {"depths": [2]}, form="deploy", precision="bfloat16")
rows = zoo.bench(["resnet50", "convnext_tiny"], threads=[1])
milliseconds: float = rows[0].ms

zoo.create("resnet50", num_clases=3)  # error
zoo.create("gla_nano", num_clases=3)  # error
zoo.create("resnet50").generate(prompt)  # error
zoo.create("gla_nano", pretrained=3.5)  # error
other: zoo.Backbone = zoo.create("resnet50", form="deploy", runtime="auto")  # error
