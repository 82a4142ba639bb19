"""Who: users, and the proofs that an address is theirs. Knows nothing of mail."""
