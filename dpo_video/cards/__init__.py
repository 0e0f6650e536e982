"""Cards: what an adapter, a merged model or a set of pairs tells about itself in its README.md, and
`dpo-video push`, which sends them to the hub.
"""
