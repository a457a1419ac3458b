"""Distillation: a small student learns the raw scores of a teacher."""
