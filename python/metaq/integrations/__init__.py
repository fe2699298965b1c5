"""The libraries around metaq: each module needs the one it is named after."""

FILE = "model.mtq"
"""The name of a compressed model in a folder."""
