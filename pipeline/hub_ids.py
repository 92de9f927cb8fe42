"""Names on the Hub, 'user/name': what may be one, and what is sure not to be a path."""

import re
from pathlib import Path

HUB_ID = re.compile(r"(?!.*(?:--|\.\.))\w[\w.-]*/\w(?:[\w.-]*\w)?", re.ASCII)


def may_be_hub_id(name: str) -> bool:
    """Whether a name that was given for a folder or a Hub id can only be the latter, or is nothing."""
    return not Path(name).exists() and bool(HUB_ID.fullmatch(name))
