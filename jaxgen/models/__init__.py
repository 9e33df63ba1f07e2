"""One file a task: module and loss."""
