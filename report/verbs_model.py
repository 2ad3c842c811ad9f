"""The verbs of the model side."""

VERBS = ()
