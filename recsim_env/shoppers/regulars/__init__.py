"""Regular customers: closed-form shoppers whom the shop has known for 30 to 300 visits.

`config` holds the parameters and where they come from, `traits` what shoppers differ by,
`behaviour` what they do at a visit, `history` the visits before an episode, and `population` the
shopper that a simulator asks.
"""
