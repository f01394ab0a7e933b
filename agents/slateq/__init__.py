"""SlateQ: the long-term value of a slate as a mixture of the long-term values of its items.

The method is that of Ie et al. 2019, "SlateQ: a tractable decomposition for reinforcement learning
with recommendation sets": section 4 gives the decomposition and its Q-learning, section 5 the
search for the best slate. Assume that a shopper clicks at most once a visit and that only the click
matters to reward and future. The value of showing slate A in state s is then

    Q(s, A) = sum over i of A and "no click" of P(i | s, A) Q(s, i)
            = Q(s, none) + sum over i of A of P(i | s, A) gain(s, i)

with gain(s, i) = Q(s, i) - Q(s, none), because the probabilities sum to 1. Q(s, i) is what follows
a click on i, and it is learned from visits in which i was clicked:

    Q(s, i) <- r + discount * max over slates A' of Q(s', A')

**Several clicks.** Shoppers of this simulator may click several positions of a slate. The second
form above extends to that case: P(i | s, A) becomes the probability that i is among the clicks C,
gains add up, and

    Q(s, none) + sum over i of C of gain(s, i) <- r + discount * max over A' of Q(s', A')

is fitted on every visit. With at most one click this is SlateQ exactly. Under position-based clicks
Q(s, A) is linear in the slate, so the K best items by sigmoid(logit_i) gain(s, i), best first, are
exactly the best slate.

**Hidden states.** The future after a click on i is caused by that click only if s is the whole
state. A shop does not observe patience or boredom, and a click is good news about both: if values
are learned from clicks, an item whose click reveals much about the shopper seems to have made the
shopper stay. The agent `slateq_chances` therefore fits Q(s, A) itself to the same target,

    Q(s, none) + sum over i of A of P(i | s, A) gain(s, i)
        <- r + discount * max over A' of Q(s', A')

Both regressions have the same solution where the assumptions of the paper hold. Given what the shop
knows, A depends on nothing but the exploration, so this form does not take news for an effect. Its
price is a larger variance, because it does not use which items were clicked.

**Reward.** r is the whole reward of the visit, including terms of the slate as a whole (diversity).
Such a term is spread over the items of its slate, so the objective is that of the environment as
far as a sum over items can express it: the interaction of items in a slate lies beyond the
decomposition.

The target uses the state s' of the next visit (google/recsim passes s to its target network, its
issue 26). The trained network chooses the slate of the target and an averaged network evaluates it
(double DQN, van Hasselt et al. 2016).

Modules: `config` (hyper-parameters), `values` (what is known of a visit, and the networks),
`choices` (the click model and the best slate under it), `memory` (replay), `learner` (the update),
`agent` (policy, training loop, registration).
"""
