# Fifty things that people do with timm, after `import zoo as timm`. A cell begins at `# %%`; x is a batch of two images.

# %% create by name
model = timm.create_model("starnet_s050")
assert model(x).shape == (2, 1000)

# %% create without the suffix
model = timm.create("mobilenetv4_conv_small_035")
assert model(x).shape == (2, 1000)

# %% another number of classes
model = timm.create_model("starnet_s050", num_classes=10)
assert model(x).shape == (2, 10)

# %% no classifier: pooled features
model = timm.create_model("starnet_s050", num_classes=0)
assert model(x).shape == (2, model.num_features)

# %% unpooled features
model = timm.create_model("starnet_s050", num_classes=0, global_pool="")
assert model(x).ndim == 4

# %% unpooled features by method
model = timm.create_model("starnet_s050")
assert model.forward_features(x).shape[1] == model.num_features

# %% features, then head
model = timm.create_model("starnet_s050")
torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x))

# %% what the classifier reads
model = timm.create_model("mobilenetv4_conv_small_035")
assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.head_hidden_size)

# %% take the classifier off later
model = timm.create_model("starnet_s050")
model.reset_classifier(0)
assert model(x).shape == (2, model.num_features)

# %% take classifier and pooling off later
model = timm.create_model("starnet_s050")
model.reset_classifier(0, "")
assert model(x).ndim == 4

# %% a classifier of other classes later
model = timm.create_model("starnet_s050")
model.reset_classifier(num_classes=5)
assert model(x).shape == (2, 5)

# %% the classifier
classifier = timm.create_model("starnet_s050").get_classifier()
assert isinstance(classifier, torch.nn.Linear) and classifier.out_features == 1000

# %% train only the classifier
model = timm.create_model("starnet_s050", num_classes=3)
for parameter in model.parameters():
    parameter.requires_grad = False
for parameter in model.get_classifier().parameters():
    parameter.requires_grad = True
assert sum(p.requires_grad for p in model.parameters()) == 2

# %% list everything
assert len(timm.list_models()) > 100

# %% list by wildcard
assert "convnext_tiny" in timm.list_models("convnext*")

# %% list by several wildcards
names = timm.list_models(["starnet*", "*mambaout*"])
assert {name.split("_")[0] for name in names} == {"starnet", "mambaout"}

# %% list what has weights
assert "vim_nano" in timm.list_models(pretrained=True)

# %% list weights with their tags
assert "vim_nano.digits" in timm.list_pretrained()

# %% list without some
assert not [name for name in timm.list_models("starnet*", exclude_filters=["*_nano"]) if "nano" in name]

# %% list a module
assert "resnet50" in timm.list_models(module="resnet")

# %% the modules
assert "convnext" in timm.list_modules()

# %% is there a model
assert timm.is_model("vit_tiny_patch16_224") and not timm.is_model("vit_tinny")

# %% pretrained weights
model = timm.create_model("starnet_nano", pretrained=True)
assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)

# %% pretrained weights by tag
model = timm.create_model("starnet_nano.digits", pretrained=True)
assert model.pretrained_cfg["tag"] == "digits"

# %% pretrained weights for other classes
model = timm.create_model("starnet_nano", pretrained=True, num_classes=3)
assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 3)

# %% pretrained weights for other channels
model = timm.create_model("starnet_nano", pretrained=True, in_chans=3)
assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)

# %% four channels
model = timm.create_model("starnet_s050", in_chans=4)
assert model(torch.zeros(1, 4, 64, 64)).shape == (1, 1000)

# %% another image size
model = timm.create_model("vit_tiny_patch16_224", img_size=64)
assert model(x).shape == (2, 1000)

# %% dropout and stochastic depth
model = timm.create_model("starnet_s050", drop_rate=0.2, drop_path_rate=0.1).train()
assert not torch.equal(model(x), model(x))

# %% dropout in attention
model = timm.create_model("vit_tiny_patch16_224", img_size=64, attn_drop_rate=0.1, proj_drop_rate=0.1)
assert torch.equal(model(x), model(x))

# %% feature pyramid
model = timm.create_model("starnet_s050", features_only=True)
assert [level.shape[-1] for level in model(x)] == [16, 8, 4, 2]

# %% some levels of it
model = timm.create_model("starnet_s050", features_only=True, out_indices=(1, 3))
assert len(model(x)) == 2

# %% levels from the end
model = timm.create_model("starnet_s050", features_only=True, out_indices=[-2])
assert model(x)[0].shape[-1] == 4

# %% channels of the levels
model = timm.create_model("starnet_s050", features_only=True, out_indices=(0, 1))
assert model.feature_info.channels() == [16, 32]

# %% reductions of the levels
model = timm.create_model("starnet_s050", features_only=True)
assert model.feature_info.reduction() == [4, 8, 16, 32]

# %% modules of the levels
model = timm.create_model("starnet_s050", features_only=True)
assert all(dict(model.named_modules())[name] is not None for name in model.feature_info.module_name())

# %% level information of a whole model
model = timm.create_model("starnet_s050")
assert model.feature_info[-1]["num_chs"] == model.num_features

# %% features and intermediates
final, levels = timm.create_model("starnet_s050").forward_intermediates(x)
assert final.shape == levels[-1].shape and len(levels) == 4

# %% intermediates of a transformer
model = timm.create_model("vit_tiny_patch16_224", img_size=64)
levels = model.forward_intermediates(x, indices=2, intermediates_only=True, output_fmt="NCHW")
assert [tuple(level.shape) for level in levels] == [(2, 192, 4, 4)] * 2

# %% prune what is not needed
model = timm.create_model("vit_tiny_patch16_224", img_size=64)
model.prune_intermediate_layers(indices=[1], prune_head=True)
assert sum(p.numel() for p in model.parameters()) < 1_500_000

# %% gradient checkpointing
model = timm.create_model("starnet_s050", num_classes=2).train()
model.set_grad_checkpointing(True)
model(x).sum().backward()
assert all(p.grad is not None for p in model.parameters())

# %% data configuration
config = timm_data.resolve_model_data_config(timm.create_model("starnet_s050"))
assert config["input_size"] == (3, 224, 224)

# %% evaluation transform from the configuration
config = timm_data.resolve_model_data_config(timm.create_model("starnet_s050"))
assert timm_data.create_transform(**config, is_training=False)(picture).shape == (3, 224, 224)

# %% default configuration
assert timm.create_model("convnext_tiny").default_cfg["classifier"] == "head.classifier"

# %% parameter groups without decay
groups = timm_optim.param_groups_weight_decay(timm.create_model("starnet_s050"), weight_decay=0.05)
torch.optim.AdamW(groups, lr=1e-3)

# %% layer-wise learning rates
groups = timm_optim.param_groups_layer_decay(timm.create_model("starnet_s050"), weight_decay=0.05, layer_decay=0.8)
assert min(group["lr_scale"] for group in groups) < 0.3

# %% timm's optimisers
optimizer = timm_optim.create_optimizer_v2(timm.create_model("starnet_s050"), opt="adamw", lr=1e-3, weight_decay=0.05)
assert optimizer.param_groups

# %% an average of the weights
from timm.utils import ModelEmaV3

model = timm.create_model("starnet_s050", num_classes=2)
ema = ModelEmaV3(model, decay=0.9)
ema.update(model)
assert ema.module(x).shape == (2, 2)

# %% a checkpoint of one's own
model = timm.create_model("starnet_s050", num_classes=4)
torch.save(model.state_dict(), folder / "mine.pth")
again = timm.create_model("starnet_s050", num_classes=4, checkpoint_path=folder / "mine.pth")
assert torch.equal(model(x), again(x))

# %% script-free deployment
model = timm.create_model("starnet_s050")
program = torch.export.export(model, (x,))
torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)
