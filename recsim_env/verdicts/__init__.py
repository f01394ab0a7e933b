"""What a fitted simulator can be trusted with.

Nothing here depends on the class of a model. What comes in are episodes of a log
(`recsim_env.logs.sessions.Sessions`), functions, and simulators; what comes out is data.

    findings = assess(predict, learned_from, held_out, catalog, simulator=.., members=.., fit=..)
    findings.verdicts            one `Verdict` for each question: answer, sentence, figure
    findings.verdict("levels")   one of them
    findings.plain()             everything as JSON values, for `shop.json`
    write_report(findings, folder, title=..)   report.md and report.html

`predict(sessions)` gives `Predicted`: clicks (V, K), leaves (V,) and the likelihood of gaps (V,) of
the V slates of some episodes, one after the other as `sessions.real` has them. `fit(sessions)` fits
the same model to other episodes and gives a function from sessions to clicks (V, K); with it, the
counterfactual check hides policies. `simulator` is the fitted one, for the closed loop, and
`members` a simulator for each member of an ensemble, for their spread. What is not given is left
out.

    rows.py             held-out rows: one for each shown item, or for each slate
    history.py          counters of what was known before a slate
    baselines.py        item mean, item and user mean, logistic regression, gradient boosting
    scores.py           AUC, normalised entropy and ratio with intervals, paired with baselines
    ratios.py           predicted over observed clicks by policy, position, category, activity
    imitation.py        a logging policy played again from its slates
    closed_loop.py      clicks and visits of simulated users against those of held-out users
    counterfactual.py   fitted without a policy, asked about it
    spread.py           how far the members of an ensemble disagree
    verdict.py          from these figures to answers; the limits and where they come from
    findings.py         everything together, as plain data
    assess.py           runs all of it
    figures.py report.py    what a person reads
"""
