"""Shoppers who are offered one combination of items at a discount: a bundle.

`config` holds the parameters, `complements` which categories go together, `choice` what is taken of
a bundle, and `population` the shopper that a simulator asks.
"""
