"""A registered model behind HTTP: images in, classes out, and a page to try it.

`server` runs it, `app` defines what it answers, `hosts` says to whom, `requests` reads images from
a request, `batching` computes concurrent requests together, and `served` holds the model and
follows its alias.

May import `models`, `store` and what is below them.
"""
