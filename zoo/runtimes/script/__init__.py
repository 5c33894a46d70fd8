"""`run.py`, which is copied into every folder of a deployed model. It imports nothing of the zoo."""
