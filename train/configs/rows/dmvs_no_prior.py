"""The head where matching does not know which object a motion query started as."""

loss = dict(prior_weight=0.0)
