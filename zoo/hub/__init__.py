"""Models in repositories of the Hub: data only, a filled spec and safetensors, verified before a byte of them is used.

A repository holds `zoo.json` (the spec, and the manifest of the weights), `model.safetensors` and a card. The real client of the Hub
fetches and pushes; its cache stays usable by other tools. It does not check what it downloads, so we do: the bytes are hashed once
and held against the manifest; what differs is set aside and fetched once more. What is cached at a commit costs no request at all.
"""
