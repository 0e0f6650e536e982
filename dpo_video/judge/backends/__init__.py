"""Who answers a judge's prompts: a model here, a server, or the workers of a cluster."""
