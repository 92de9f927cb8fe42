"""Captions of tags, as in 'ohwx, red hat, beach': what is put around them, and what of them may move. No torch."""

from pipeline.data.options import DataOptions


def dressed(caption: str, options: DataOptions) -> str:
    """A caption with what --caption_prefix and --caption_suffix put around it."""
    return " ".join(
        part for part in (_evened(options.caption_prefix), caption, _evened(options.caption_suffix)) if part
    )


def parted(caption: str, options: DataOptions) -> tuple[list[str], list[str]]:
    """The tags of a dressed caption, prefix and suffix apart: those that stay in their place, and the others."""
    bare = caption.removeprefix(_evened(options.caption_prefix)).removesuffix(_evened(options.caption_suffix))
    tags = [stripped for tag in bare.split(options.caption_separator) if (stripped := tag.strip())]
    return tags[: options.keep_tokens], tags[options.keep_tokens :]


def joined(tags: list[str], options: DataOptions) -> str:
    """The dressed caption of these tags."""
    return dressed(_evened(f"{options.caption_separator} ".join(tags)), options)


def certain(caption: str, options: DataOptions) -> str:
    """What of a dressed caption is never left out."""
    return joined(parted(caption, options)[0], options) if options.tag_dropout else caption


def said(options: DataOptions, *, kept: bool) -> str:
    """What chance does to captions, for the plan."""
    done = ["shuffled"] if options.shuffle_tags else []
    done += [f"{options.tag_dropout:.0%} left out"] if options.tag_dropout else []
    where = f" after the first {options.keep_tokens}" if options.keep_tokens else ""
    how = "anew in every epoch"
    if kept:
        how = f"in at most {options.caption_variants} ways for each caption (--caption_variants)"
    return f"{' and '.join(done)}{where}, {how}"


def _evened(text: str | None) -> str:
    return " ".join((text or "").split())
