"""What both programs of the benchmark are told: numbers alone, so that who starts and measures them stays small."""

BATCH, RANK, RATE, SEED = 8, 16, 1e-4, 0
