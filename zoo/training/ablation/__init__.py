"""Studies: blocks swapped in hosts of equal cost, trained over seeds, judged by intervals."""
