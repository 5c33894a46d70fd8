"""What leaves this machine: cards, saved models, repositories."""
