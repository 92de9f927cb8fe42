"""The frontier between how well pictures follow their captions and how much they differ from one another."""
