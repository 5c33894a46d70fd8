"""What nets for tasks answer: from their outputs to boxes, masks and pictures, and how these are shown and judged."""
