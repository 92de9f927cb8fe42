"""Fine-tune a text-to-image model with LoRA: `accelerate launch train_lora.py --help`."""

import sys

from pipeline.run.main import run_and_report


def main(argv: list[str] | None = None) -> int:
    """Run with these arguments (the command line's by default); returns the exit code."""
    return run_and_report(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
