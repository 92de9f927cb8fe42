"""What a run will take before it runs: bytes, floating-point operations, seconds."""
