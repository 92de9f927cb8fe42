"""What a family makes of the options of how prompts are read, and of what it is told beside them."""

from pipeline.families.base import Family


def clashes(family: Family) -> list[str]:
    """The options of these that have no meaning for a model, one sentence each."""
    options, name, found = family.options, family.name, list[str]()
    if options.max_sequence_length is not None and not family.reads_to_a_limit:
        found.append(f"--max_sequence_length: what {name} reads has one length; leave it out.")
    if options.long_prompts == "chunks" and not family.read_by_clip:
        found.append(
            f"--long_prompts chunks is for what CLIP alone reads; {name} has an encoder that reads further, up to "
            f"--max_sequence_length, which is {family.max_sequence_length}."
        )
    if options.clip_skip is not None and not family.read_by_clip:
        found.append(f"--clip_skip is for Stable Diffusion and XL, and this is {name}; leave it out.")
    elif options.clip_skip is not None:
        depth = min(int(family.part_config(part)["num_hidden_layers"]) for part in family.source.text_encoders)
        most = depth - family.layers_left_out - 1
        if options.clip_skip > most:
            found.append(f"--clip_skip {options.clip_skip} leaves no layer of a text encoder; at most {most} can be.")
    if options.training_guidance != 1.0 and not family.is_told_guidance:
        found.append(f"--training_guidance: this {name} is told no guidance; leave it out.")
    return found
