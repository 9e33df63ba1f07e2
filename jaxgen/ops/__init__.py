"""Pure array functions: the recurrence, lookups and losses, with their own backward passes."""
