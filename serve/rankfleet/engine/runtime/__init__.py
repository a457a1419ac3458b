"""Loading a model onto a device and scoring pairs with it."""
