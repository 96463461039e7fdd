"""A world small enough to learn in minutes, where every claim about training can be measured."""
