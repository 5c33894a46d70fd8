"""Pictures, digits, texts and tasks, as tensors."""
