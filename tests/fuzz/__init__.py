from pathlib import Path

# A directory a provider, a file a request: genuine ones, and what fuzzing has found (`find-...`).
SEEDS = Path(__file__).parent / "seeds"
