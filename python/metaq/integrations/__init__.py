"""The libraries around metaq: each module needs the one it is named after."""
