"""Carts of the Complete Journey: what goes into a basket that is half full.

`lift` counts which items are bought together, `histories` replays a log up to chosen visits,
`model` ranks the rest of a basket, and `examples` and `fit` train it on baskets of which a part is
hidden.
"""
