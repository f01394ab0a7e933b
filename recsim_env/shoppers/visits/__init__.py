"""Whole visits: closed-form shoppers who look at page after page, fill a cart, and check out.

`config` holds the parameters and where they come from, `pairs` which categories go together,
`pages` a visit from page to page, and `population` the shopper that a simulator asks.
"""
