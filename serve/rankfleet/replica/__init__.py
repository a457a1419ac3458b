"""What runs in a group's replica: the queue, the choice of the next batch, the worker, health."""
