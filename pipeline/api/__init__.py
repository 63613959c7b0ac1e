"""The functions for Python: each has the options of the command of its name, and returns a value.

They print nothing: news go to the logger `pipeline`, and bars to stderr, by tqdm. `options` and
`use_options` declare what they take, with help, unit and range, for the commands, too.

Torch and MLflow take seconds to import, so only a function that is called needs them.
"""
