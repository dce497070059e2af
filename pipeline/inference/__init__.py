"""A finished model in use: what it writes (`sampling`), and what any text costs it (`documents`, `costs`).

Enter at `source.open_model`. No stage reads this room, and nothing here scores: that is `pipeline.scoring`.
"""
