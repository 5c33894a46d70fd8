"""How good models are on pictures of the user's own: figures with intervals, models against each other, records and proofs."""
