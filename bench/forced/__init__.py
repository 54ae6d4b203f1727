"""Requests that say in advance what the model answers, in servers that a bench starts.

`custom_params = {FORCED_IDS: [...]}` of a request holds the ids it emits, the end token among them. The server does
all the work of any other answer: it prefills, decodes, drafts, verifies, samples and caches. Only the logit of the next
scripted token is raised above all others wherever the model is asked for it. An answer that differs from its script
ends with status 500; without the plugin, the script is ignored in silence, so a client compares as well.
"""

FORCED_IDS = "forced_ids"
PLUGIN = "bench.forced.plugin:register"
