"""Options of sharing."""

import re
from dataclasses import dataclass

NAME = r"[\w.-]+"


@dataclass(frozen=True, kw_only=True)
class ShareOptions:
    """Whether and where the adapter is shared, and what is known of the data it was trained on."""

    push_to_hub: bool = False
    """Upload the adapter, its card, its settings and the card's pictures to the Hub at the end, in one commit."""

    hub_model_id: str | None = None
    """Repository on the Hub, user/name or only a name. Not given: the output folder's name, under your account."""

    hub_token: str | None = None
    """Token of the Hub. Not given: that of HF_TOKEN or `hf auth login`. It is written nowhere."""

    data_card: str | None = None
    """The dataset's card: who made it, whether it may be trained on, who is in it. Not given: data_cards/<dataset
    name>.md, or README.md in the dataset's folder."""

    require_data_card: bool = False
    """Do not train on data without a complete card that was written for these very data."""

    allow_undocumented_data: str | None = None
    """Share without a card of the dataset, for this reason, which the adapter's card will show."""

    def problems(self) -> list[str]:
        """What is wrong with these values, one sentence each."""
        problems = []
        if self.hub_model_id is not None and not re.fullmatch(rf"(?:{NAME}/)?{NAME}", self.hub_model_id):
            problems.append(f"--hub_model_id {self.hub_model_id!r} is no name of a repository; as in user/name.")
        for name in ("hub_model_id", "hub_token"):
            if getattr(self, name) is not None and not self.push_to_hub:
                problems.append(f"--{name} has an effect only with --push_to_hub.")
        if self.allow_undocumented_data is not None and not self.allow_undocumented_data.strip():
            problems.append("--allow_undocumented_data is empty; give the reason, which will be shown.")
        for name in ("data_card", "require_data_card"):
            if self.allow_undocumented_data is not None and getattr(self, name):
                problems.append(f"--{name} and --allow_undocumented_data say opposite things; give one.")
        return problems
