"""timm's architectures for the zoo. Listing reads `models/index.json`; timm is imported with the first model."""
