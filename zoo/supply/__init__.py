"""Where the bytes of weights come from, and who vouches for them: pins, locks, mirrors, the cache and its audit."""
