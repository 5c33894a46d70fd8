"""Files of others on this machine: the Hub's client, repositories, downloads, pins, locks, the store and mirrors."""
