"""Several processes that train one model.

distributed.py    what they agree on and exchange; together.py: whether all were asked for the same
sharding.py       weights, gradients and optimizer split over them
"""
