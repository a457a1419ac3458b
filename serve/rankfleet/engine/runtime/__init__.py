"""Loading a checkpoint onto a device, scoring pairs with it, and timing it."""
