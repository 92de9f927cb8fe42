"""The small base model and the dataset that ship, and what measures them.

base, dataset, vision, judge    what ships
world                           scenes of emoji with captions, which all of it shows
judge, reader, seen, extractors what a picture shows, how near it is to a caption
build/                          how all of it was made: python -m pipeline.starter.build
"""
